"""What a sentence-transformers directory says of texts, pooling and norm.

modules.json lists what follows one another: a Transformer (which folder),
Pooling (its config.json says of what) and maybe Normalize. A plain Hugging
Face directory has none of these files; sentence-transformers then takes the
mean of all tokens and does not normalise, and so is it here.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigrec_jax import errors
from bigrec_jax.workdir import storage

MODULES_FILE = "modules.json"
_TEXT_FILE = "sentence_bert_config.json"
# Names of pooling in the files (old: a key each, true or false; new: one key).
_POOLINGS = {
  "pooling_mode_cls_token": "cls",
  "pooling_mode_mean_tokens": "mean",
}


@dataclasses.dataclass(frozen=True)
class Sentences:
  """How a network's states become one vector of a text.

  Attributes:
    directory: of the network's own files.
    pooling: `mean` of all tokens' states, or that of the first (`cls`).
    normalize: whether the vector is divided by its L2 norm.
    max_length: tokens of a text, special ones included, beyond which it is
      cut; None = the network's and the tokenizer's own limit.
    lower: whether the text is lowercased before the tokenizer sees it.
  """

  directory: pathlib.Path
  pooling: str
  normalize: bool
  max_length: int | None
  lower: bool


def network_directory(directory: pathlib.Path) -> pathlib.Path:
  """Returns the folder of config.json and the weights."""
  modules = _modules(directory)
  return directory if not modules else directory / modules[0][1]


def read(directory: pathlib.Path) -> Sentences:
  """Reads the files of a directory.

  Raises:
    UserError: a module, a pooling or a limit that is not known here; nothing
      is dropped in silence.
  """
  own = network_directory(directory)
  kinds = [kind for kind, _ in _modules(directory)]
  pooling = "mean"
  if kinds:
    if kinds not in (
      ["Transformer", "Pooling"],
      ["Transformer", "Pooling", "Normalize"],
    ):
      raise errors.UserError(
        f"{directory / MODULES_FILE}: {', '.join(kinds)} found, Transformer,"
        " Pooling and maybe Normalize expected"
      )
    pooling = _pooling(directory / _modules(directory)[1][1] / "config.json")
  file = own / _TEXT_FILE
  values = _object(file) if file.is_file() else {}
  most = values.get("max_seq_length")
  if most is not None and (not isinstance(most, int) or most < 3):
    raise errors.UserError(
      f"{file}: max_seq_length: {most!r} found, a number above 2 expected"
    )
  return Sentences(
    directory=own,
    pooling=pooling,
    normalize="Normalize" in kinds,
    max_length=most,
    lower=bool(values.get("do_lower_case", False)),
  )


def pool(
  hidden: jax.Array, lengths: jax.Array, pooling: str, normalize: bool
) -> jax.Array:
  """Returns one float32 vector [B, D] of each row.

  Args:
    hidden: [B, T, D], states; those from `lengths` on are padding.
    lengths: [B] int32, at least 1.
    pooling: `mean` or `cls`.
    normalize: whether each vector is divided by its L2 norm.
  """
  hidden = hidden.astype(jnp.float32)
  if pooling == "cls":
    vectors = hidden[:, 0]
  else:
    slots = jnp.arange(hidden.shape[1], dtype=jnp.int32)[None]
    real = (slots < lengths[:, None]).astype(jnp.float32)  # [B, T]
    vectors = jnp.sum(hidden * real[..., None], axis=1)
    vectors = vectors / lengths[:, None].astype(jnp.float32)
  if normalize:
    squares = jnp.sum(jnp.square(vectors), axis=1, keepdims=True)
    # As torch's normalize: a zero vector stays one.
    vectors = vectors / jnp.maximum(jnp.sqrt(squares), np.float32(1e-12))
  return vectors


def _modules(directory: pathlib.Path) -> list[tuple[str, str]]:
  """Returns the kind and the folder of each module; empty without a file."""
  file = directory / MODULES_FILE
  if not file.is_file():
    return []
  values = storage.read_json(file)
  try:
    rows = sorted(values, key=lambda row: row["idx"])
    found = [(row["type"].split(".")[-1], row["path"]) for row in rows]
  except (TypeError, KeyError, AttributeError):
    found = []
  if not found:
    raise errors.UserError(
      f"{file}: a list of modules with idx, type and path expected"
    )
  return found


def _pooling(file: pathlib.Path) -> str:
  """Returns `mean` or `cls` as 1_Pooling/config.json says."""
  values = _object(file)
  if isinstance(mode := values.get("pooling_mode"), str):
    chosen = [mode]
  else:
    chosen = [
      _POOLINGS.get(key, key)
      for key, value in values.items()
      if key.startswith("pooling_mode_") and value
    ]
  if len(chosen) != 1 or chosen[0] not in _POOLINGS.values():
    raise errors.UserError(
      f"{file}: pooling {' and '.join(chosen) or 'none'} found, mean or cls"
      " expected"
    )
  return chosen[0]


def _object(file: pathlib.Path) -> Mapping[str, Any]:
  values = storage.read_json(file)
  if not isinstance(values, dict):
    raise errors.UserError(f"{file}: a JSON object expected")
  return values
