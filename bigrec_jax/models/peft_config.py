"""adapter_config.json: which linear layers an adapter changes, and how much.

PEFT's own rules say what is targeted and scaled. What isn't computed here is
refused by the name of its key, never dropped.
"""

import dataclasses
import math
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging

from bigrec_jax import errors
from bigrec_jax.config import LoraConfig
from bigrec_jax.models import registry
from bigrec_jax.models.hf_config import flag
from bigrec_jax.models.protocol import Architecture
from bigrec_jax.workdir import fields, storage

FILE = "adapter_config.json"
_KNOWN = frozenset(
  """
  alpha_pattern bias exclude_modules fan_in_fan_out init_lora_weights
  layers_pattern layers_to_transform lora_alpha lora_bias lora_dropout
  peft_type r rank_pattern target_modules use_dora use_rslora
  """.split()
)
# What only training, PEFT itself or quantised layers read.
_HARMLESS = frozenset(
  """
  auto_mapping base_model_name_or_path corda_config ensure_weight_tying
  eva_config inference_mode loftq_config lora_ga_config megatron_core
  peft_version qalora_group_size revision runtime_config task_type
  """.split()
)
# Ways to draw A and B that leave the base's weights as they are.
_HARMLESS_INITS = (True, False, "gaussian", "eva", "orthogonal")
_MOST_RANK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Part:
  """How one linear layer is adapted: W + scale * A B.

  Attributes:
    rank: of A and B.
    scale: alpha / rank, or alpha / sqrt(rank) with `use_rslora`.
  """

  rank: int
  scale: float


@dataclasses.dataclass(frozen=True)
class PeftConfig:
  """What adapter_config.json says.

  Attributes:
    lora: the plain LoRA that can hold all of the parts: with the largest
      rank, and with a place wherever any layer has a part.
    parts: of the linear layers that are adapted, by module and layer.
  """

  lora: LoraConfig
  parts: Mapping[tuple[str, int], Part]

  @property
  def scale(self) -> float:
    """What `lora` multiplies A B with."""
    return self.lora.alpha / self.lora.rank


def read(directory: str | pathlib.Path, arch: Architecture) -> PeftConfig:
  """Reads the adapter_config.json of a directory.

  Args:
    directory: of an adapter.
    arch: of the base whose layers it names.

  Raises:
    UserError: the file is missing or damaged, or asks for what LoRA is not.
  """
  file = pathlib.Path(directory) / FILE
  values = fields.of_object(storage.read_json(file), str(file))
  where = f"{file}:"

  def get(key: str, read: Callable[[Any, str], Any], absent: Any) -> Any:
    value = values.get(key)
    return absent if value is None else read(value, f"{where} {key}")

  _refuse_unsupported(where, values)
  rank = get("r", _rank, None)
  alpha = get("lora_alpha", fields.number, None)
  for key, value in (("r", rank), ("lora_alpha", alpha)):
    if value is None:
      raise fields.refuse(f"{where} {key}", None, "a number")
  dropout = get("lora_dropout", fields.number, 0.0)
  if not 0 <= dropout < 1:
    raise fields.refuse(f"{where} lora_dropout", dropout, "0 <= dropout < 1")
  ranks = get("rank_pattern", fields.mapping(_rank), {})
  alphas = get("alpha_pattern", fields.mapping(fields.number), {})
  stabilised = get("use_rslora", flag, False)
  parts = {}
  adapted = {}
  for (module, layer), name in _targets(where, values, arch).items():
    own = _of_pattern(f"{where} rank_pattern", ranks, name, rank)
    height = _of_pattern(f"{where} alpha_pattern", alphas, name, alpha)
    size = math.sqrt(own) if stabilised else own
    parts[module, layer] = Part(own, height / size)
    adapted[own, height] = height * math.sqrt(own) if stabilised else height
  modules = dict.fromkeys(module for module, _ in parts)
  largest = max(part.rank for part in parts.values())
  if len(adapted) == 1:
    whole = float(next(iter(adapted.values())))
  else:  # The largest scale is everyone's; in the others, B is smaller.
    whole = largest * max((p.scale for p in parts.values()), key=abs)
  if not math.isfinite(whole):
    raise fields.refuse(f"{where} lora_alpha", alpha, "a smaller number")
  lora = LoraConfig(largest, whole, float(dropout), tuple(modules))
  return PeftConfig(lora, parts)


def _rank(value: Any, where: str) -> int:
  if not 1 <= fields.whole(value, where) <= _MOST_RANK:
    raise fields.refuse(where, value, f"a number from 1 to {_MOST_RANK}")
  return value


def _is_neutral(value: Any) -> bool:
  return value is None or value is False or value in ([], {}, "")


def _refuse_unsupported(where: str, values: Mapping[str, Any]) -> None:
  kind = values.get("peft_type")
  if kind != "LORA":
    raise fields.refuse(f"{where} peft_type", kind, "'LORA'")
  for key in ("use_dora", "lora_bias"):
    if not _is_neutral(values.get(key)):
      raise fields.refuse(f"{where} {key}", values[key], "plain LoRA (False)")
  if (bias := values.get("bias")) not in (None, "none"):
    raise fields.refuse(f"{where} bias", bias, "plain LoRA ('none')")
  init = values.get("init_lora_weights", True)
  if not isinstance(init, (bool, str)) or init not in _HARMLESS_INITS:
    raise fields.refuse(
      f"{where} init_lora_weights",
      init,
      "an initialisation that leaves the base as it is",
    )
  if not _is_neutral(values.get("fan_in_fan_out")):
    flag(values["fan_in_fan_out"], f"{where} fan_in_fan_out")
    # PEFT sets it back itself: linear layers are stored one way only.
    logging.warning("%s fan_in_fan_out: without effect on linear layers", where)
  for key, value in values.items():
    if key not in _KNOWN | _HARMLESS and not _is_neutral(value):
      raise fields.refuse(f"{where} {key[:80]}", value, "plain LoRA without it")


def _of_pattern(
  where: str, patterns: Mapping[str, Any], name: str, otherwise: Any
) -> Any:
  """Returns the value of the first pattern that a layer's name ends with."""
  for pattern, value in patterns.items():
    _compiled(where, pattern)  # An error shows it as it is in the file.
    if _compiled(where, rf"(.*\.)?({pattern})$").match(name):
      return value
  return otherwise


def _compiled(where: str, pattern: str) -> re.Pattern:
  try:
    return re.compile(pattern)
  except (re.error, RecursionError, OverflowError) as error:
    raise errors.UserError(
      f"{where}: {pattern[:60]!r} is no regular expression: {error}"
    ) from None


def _targets(
  where: str, values: Mapping[str, Any], arch: Architecture
) -> dict[tuple[str, int], str]:
  """Returns the adapted linear layers by module and layer, with their names."""
  names = {
    (entry.path[-2], layer): entry.hf_name.format(layer=layer).removesuffix(
      ".weight"
    )
    for entry in registry.base_entries(arch)
    if entry.kind == "kernel"
    for layer in range(arch.num_hidden_layers)
  }
  modules = ", ".join(dict.fromkeys(module for module, _ in names))
  wanted = values.get("target_modules")
  found = _chosen(where, wanted, names, modules)
  by_layer = _is_of_layers(where, values)
  if by_layer is not None:
    if isinstance(wanted, str):
      raise fields.refuse(
        f"{where} layers_to_transform",
        values["layers_to_transform"],
        "null beside target_modules that are a text, as PEFT has it",
      )
    found = {place: name for place, name in found.items() if by_layer(name)}
  excluded = values.get("exclude_modules")
  if not _is_neutral(excluded):
    is_out = _matcher(f"{where} exclude_modules", excluded)
    found = {place: name for place, name in found.items() if not is_out(name)}
  if not found:
    raise fields.refuse(
      f"{where} target_modules",
      wanted,
      f"some of {modules} (with exclude_modules and layers_to_transform it"
      " matches nothing)",
    )
  return found


def _chosen(
  where: str,
  wanted: Any,
  names: Mapping[tuple[str, int], str],
  modules: str,
) -> dict[tuple[str, int], str]:
  """Returns what `target_modules` alone matches."""
  if isinstance(wanted, str) and wanted.lower() == "all-linear":
    return dict(names)
  place = f"{where} target_modules"
  matches = _matcher(place, wanted)
  if not isinstance(wanted, str):
    for ending in wanted:
      if not any(_ends(name, ending) for name in names.values()):
        raise fields.refuse(place, ending, f"some of {modules}")
  found = {key: name for key, name in names.items() if matches(name)}
  if not found:
    raise errors.UserError(
      f"{place}: {str(wanted)[:60]!r} matches nothing, some of {modules}"
      " expected"
    )
  return found


def _ends(name: str, ending: str) -> bool:
  return name == ending or name.endswith(f".{ending}")


def _matcher(where: str, wanted: Any) -> Callable[[str], bool]:
  """Returns PEFT's test of a name: a regular expression, or some endings."""
  if isinstance(wanted, str):
    pattern = _compiled(where, wanted)
    return lambda name: pattern.fullmatch(name) is not None
  if not isinstance(wanted, list) or not wanted:
    raise fields.refuse(where, wanted, "a list or a regular expression")
  endings = fields.sequence(fields.text)(wanted, where)
  return lambda name: any(_ends(name, ending) for ending in endings)


def _is_of_layers(
  where: str, values: Mapping[str, Any]
) -> Callable[[str], bool] | None:
  """Returns the test of `layers_to_transform`; None = all layers."""
  wanted = values.get("layers_to_transform")
  patterns = values.get("layers_pattern")
  if wanted is None or wanted == []:
    if not _is_neutral(patterns):
      raise fields.refuse(
        f"{where} layers_pattern", patterns, "layers_to_transform beside it"
      )
    return None
  place = f"{where} layers_to_transform"
  numbers = wanted if isinstance(wanted, list) else [wanted]
  layers = frozenset(fields.sequence(fields.whole)(numbers, place))
  if _is_neutral(patterns):
    compiled = [re.compile(r".*?\.[^.]*\.(?P<layer>\d+)\.")]
  else:
    place = f"{where} layers_pattern"
    listed = patterns if isinstance(patterns, list) else [patterns]
    compiled = [
      _compiled(place, rf"(?:^|.*?\.){pattern}\.(?P<layer>\d+)\.")
      for pattern in fields.sequence(fields.text)(listed, place)
    ]

  def is_one(name: str) -> bool:
    for pattern in compiled:
      if match := pattern.match(name):
        return int(match["layer"]) in layers
    return False

  return is_one
