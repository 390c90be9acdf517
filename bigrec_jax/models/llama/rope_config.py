"""The rotary settings of a config.json, of transformers 4 or 5.

What is read, what goes before what and what is assumed are transformers'. A
way of scaling that isn't known is refused, and so is a setting that nothing
reads.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigrec_jax import errors
from bigrec_jax.models.hf_config import Reader, flag, warn
from bigrec_jax.models.llama import rope
from bigrec_jax.models.llama.rope import RopeScaling
from bigrec_jax.workdir import fields

_CONTEXT = "original_max_position_embeddings"
# What each way of scaling reads: what it must have, what it may have.
_REQUIRED = {
  "linear": ("factor",),
  "dynamic": ("factor",),
  "llama3": ("factor", "low_freq_factor", "high_freq_factor", _CONTEXT),
  "yarn": ("factor", _CONTEXT),
  "longrope": ("short_factor", "long_factor", _CONTEXT),
}
_OPTIONAL = {
  "yarn": (
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
  ),
  "longrope": ("attention_factor", "factor"),
}
# Settings that another way of scaling reads: without effect, but no mistake.
_KNOWN = frozenset(
  name for table in (_REQUIRED, _OPTIONAL) for row in table.values()
  for name in row
)  # fmt: skip
_READ = frozenset({"rope_theta", "rope_type", "type", "partial_rotary_factor"})
_KEYS = ("rope_scaling", "rope_parameters")
_DEFAULT_THETA = 10000.0


def read(
  reader: Reader, head_dim: int, max_positions: int
) -> tuple[float, RopeScaling | None]:
  """Returns theta and the scaling of a config.json of transformers 4 or 5.

  `rope_scaling` goes before `rope_parameters` unless it is empty, a theta
  inside before one beside, and a trained context beside before one inside, as
  transformers has it.

  Args:
    reader: of the file.
    head_dim: of the attention heads.
    max_positions: `max_position_embeddings`.

  Raises:
    UserError: a way of scaling, or a setting of it, that isn't known here.
  """
  reader.expect("partial_rotary_factor", (1, 1.0))
  key, values = _chosen(reader)
  where = f"{reader.source}: {key}"
  beside = reader.values.get("rope_theta", _DEFAULT_THETA)
  if "rope_theta" in values:
    theta = fields.number(values["rope_theta"], f"{where}.rope_theta")
    if "rope_theta" in reader.values and beside != theta:
      warn(f"{where}.rope_theta {theta} is used, not rope_theta {beside!r}")
  else:
    theta = fields.number(beside, f"{reader.source}: rope_theta")
  if theta <= 0:
    raise fields.refuse(f"{where}.rope_theta", theta, "a number above 0")
  kind = _kind(where, values)
  _refuse_unread(where, kind, values)
  if kind == "default":
    scaling = None
  else:
    if kind in ("llama3", "yarn", "longrope"):
      values.setdefault(_CONTEXT, max_positions)
      if (beside := reader.values.get(_CONTEXT)) is not None:
        if beside != values[_CONTEXT]:
          warn(
            f"{reader.source}: {_CONTEXT} {beside!r} is used, not {key}'s own"
            f" {values[_CONTEXT]!r}"
          )
        values[_CONTEXT] = beside
    scaling = _scaling(where, kind, values, head_dim)
    if kind in ("yarn", "longrope") and not scaling.factor:
      _check_contexts(where, scaling, max_positions)
  _check_frequencies(where, head_dim, float(theta), scaling, max_positions)
  return float(theta), scaling


def _chosen(reader: Reader) -> tuple[str, dict[str, Any]]:
  """Returns the key that counts and a copy of its value."""
  found = {}
  for key in _KEYS:
    value = reader.values.get(key)
    if value is not None and not isinstance(value, Mapping):
      raise reader.error(key, "an object or null")
    if value:
      found[key] = dict(value)
  if len(found) == 2 and found[_KEYS[0]] != found[_KEYS[1]]:
    warn(
      f"{reader.source}: rope_scaling and rope_parameters differ; rope_scaling"
      " is used, as transformers does"
    )
  key = next(iter(found), _KEYS[0])
  return key, found.get(key, {})


def _kind(where: str, values: Mapping[str, Any]) -> str:
  kind = values.get("rope_type", values.get("type", "default"))
  kinds = ("default", *_REQUIRED)
  if not isinstance(kind, str) or kind not in kinds:
    raise fields.refuse(
      f"{where}.rope_type", kind, f"one of {', '.join(kinds)}"
    )
  if values.get("type", kind) != kind:
    warn(f"{where}: rope_type {kind!r} is used, not type {values['type']!r}")
  return kind


def _refuse_unread(where: str, kind: str, values: Mapping[str, Any]) -> None:
  """Refuses what would be dropped, and says what has no effect."""
  own = _REQUIRED.get(kind, ()) + _OPTIONAL.get(kind, ())
  for name, value in values.items():
    if name in _READ or name in own or value is None:
      continue
    place = f"{where}.{name[:80]}"
    if isinstance(value, Mapping):
      raise fields.refuse(place, value, "one setting for all layers")
    if name not in _KNOWN:
      raise fields.refuse(place, value, "no such setting")
    warn(f"{where}.{name}: without effect on rope_type {kind}")
  partial = values.get("partial_rotary_factor")
  if partial is not None and partial != 1:
    raise fields.refuse(f"{where}.partial_rotary_factor", partial, "1")


def _scaling(
  where: str, kind: str, values: Mapping[str, Any], head_dim: int
) -> RopeScaling:
  """Reads the settings of a way of scaling that is not the default."""
  found: dict[str, Any] = {}
  for name in _REQUIRED[kind] + _OPTIONAL.get(kind, ()):
    required = name in _REQUIRED[kind]
    if required and name not in values:
      raise fields.refuse(where, dict(values), f"a value for {name} too")
    value, place = values.get(name), f"{where}.{name}"
    if value is None and (not required or (kind, name) == ("yarn", "factor")):
      continue
    if name in ("short_factor", "long_factor"):
      found[name] = fields.sequence(_positive)(value, place)
      if len(found[name]) != head_dim // 2:
        raise fields.refuse(
          place, f"{len(found[name])} factors", f"{head_dim // 2}"
        )
    elif name == "truncate":
      found[name] = flag(value, place)
    elif name == _CONTEXT:
      found[name] = fields.whole(value, place)
      _positive(value, place)
    elif name in ("beta_fast", "beta_slow", "mscale", "mscale_all_dim"):
      # Zero is "not given", as transformers has it.
      if number := _at_least_zero(value, place):
        found[name] = number
    elif name == "attention_factor":
      found[name] = _at_least_zero(value, place)
    else:
      found[name] = _positive(value, place)
  if len(found.keys() & {"mscale", "mscale_all_dim"}) == 1:
    warn(f"{where}: mscale and mscale_all_dim: without effect but together")
    found.pop("mscale", None)
    found.pop("mscale_all_dim", None)
  scaling = RopeScaling(kind, **found)
  if kind == "llama3" and scaling.high_freq_factor <= scaling.low_freq_factor:
    raise fields.refuse(
      f"{where}.high_freq_factor",
      scaling.high_freq_factor,
      f"more than low_freq_factor {scaling.low_freq_factor}",
    )
  return scaling


def _positive(value: Any, where: str) -> float:
  if (found := fields.number(value, where)) <= 0:
    raise fields.refuse(where, value, "a number above 0")
  return float(found)


def _at_least_zero(value: Any, where: str) -> float:
  if (found := fields.number(value, where)) < 0:
    raise fields.refuse(where, value, "a number of at least 0")
  return float(found)


def _check_contexts(
  where: str, scaling: RopeScaling, max_positions: int
) -> None:
  if max_positions < scaling.original_max_position_embeddings:
    raise fields.refuse(
      f"{where}.{_CONTEXT}",
      scaling.original_max_position_embeddings,
      f"at most max_position_embeddings {max_positions}",
    )


def _check_frequencies(
  where: str,
  head_dim: int,
  theta: float,
  scaling: RopeScaling | None,
  max_positions: int,
) -> None:
  """Raises UserError where a setting is too large or small to compute with."""
  try:
    with np.errstate(all="ignore"):
      found = rope.frequencies(head_dim, theta, scaling, max_positions)
      scale = rope.attention_scale(scaling, max_positions)
  except (ArithmeticError, ValueError):
    found, scale = np.array([np.nan], np.float32), 1.0
  if not (np.isfinite(found) & (found > 0)).all() or not math.isfinite(scale):
    raise errors.UserError(
      f"{where}: rope_theta {theta} and {scaling} give rotary frequencies that"
      " are zero, NaN or infinite, finite ones expected"
    )


def to_hf(scaling: RopeScaling) -> dict[str, Any]:
  """Returns `rope_scaling` as config.json has it."""
  names = _REQUIRED[scaling.rope_type] + _OPTIONAL.get(scaling.rope_type, ())
  values = {name: getattr(scaling, name) for name in names}
  if scaling.rope_type == "yarn" and not scaling.factor:
    values["factor"] = None  # Must be there, and says "as the contexts do".
  elif not scaling.factor:
    values.pop("factor", None)
  if not (scaling.mscale and scaling.mscale_all_dim):
    values.pop("mscale", None)
    values.pop("mscale_all_dim", None)
  if scaling.attention_factor is None:
    values.pop("attention_factor", None)
  values = {
    key: list(value) if isinstance(value, tuple) else value
    for key, value in values.items()
  }
  return {"rope_type": scaling.rope_type, **values}
