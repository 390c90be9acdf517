"""Rotary settings of a GGUF file, as config.json has them.

llama.cpp stores Llama 3's stretched frequencies as a tensor of divisors, not
as the four numbers that made it. Those numbers are found again and checked by
making the divisors anew, or the file is refused.
"""

import math
from typing import Any

import numpy as np

from bigrec_jax import errors
from bigrec_jax.models.gguf.reading import GgufFile, NotFiniteError

TENSOR = "rope_freqs.weight"
KEYS = frozenset(
  {
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
  }
)
_DEFAULT_BASE = 10000.0  # llama.cpp's, where a file has none.
# low_freq_factor, high_freq_factor and original context: the same in Llama
# 3.1, 3.2 and 3.3, whose factor (8 or 32) is the largest divisor.
_LLAMA3 = (1.0, 4.0, 8192)
_TOLERANCE = 1e-5


def config_values(file: GgufFile, arch: str, head_dim: int) -> dict[str, Any]:
  """Returns `rope_theta` and, where there is any, `rope_scaling`.

  Args:
    file: with its metadata and perhaps a tensor of divisors.
    arch: whose keys are read.
    head_dim: of the attention heads.

  Raises:
    UserError: a way of scaling that isn't supported.
  """

  def value(name: str, otherwise: Any) -> Any:
    return file.metadata.get(f"{arch}.rope.{name}", otherwise)

  def number(name: str, otherwise: float) -> float:
    found = value(name, otherwise)
    if isinstance(found, bool) or not isinstance(found, (int, float)):
      found = math.nan
    if not 0 <= found < math.inf:
      raise file.error(
        f"{arch}.rope.{name}",
        f"{value(name, 0)!r} found, a finite number expected",
      )
    return found

  theta = float(str(np.float32(number("freq_base", _DEFAULT_BASE))))
  kind = value("scaling.type", "none")
  factor = number("scaling.factor", number("scale_linear", 0.0)) or 1.0
  if "rope.scaling.type" not in _names(file, arch) and factor != 1.0:
    kind = "linear"  # llama.cpp's, where a factor comes without a type.
  if kind not in ("none", "linear"):
    raise file.error(
      f"{arch}.rope.scaling.type",
      f"{kind!r} found, none or linear expected",
    )
  values: dict[str, Any] = {"rope_theta": theta}
  if kind == "linear" and factor != 1.0:
    values["rope_scaling"] = {
      "rope_type": "linear",
      "factor": float(str(np.float32(factor))),
    }
  if TENSOR in file.tensors:
    scaling = _llama3(file, theta, head_dim)
    if scaling and "rope_scaling" in values:
      raise file.error(TENSOR, f"found beside {arch}.rope.scaling.type linear")
    if scaling:
      values["rope_scaling"] = scaling
  return values


def _names(file: GgufFile, arch: str) -> set[str]:
  return {key.removeprefix(f"{arch}.") for key in file.metadata}


def _llama3(
  file: GgufFile, theta: float, head_dim: int
) -> dict[str, Any] | None:
  """Returns the settings that give the stored divisors, None if all are 1."""
  try:
    divisors = file.tensors[TENSOR].values(np.dtype(np.float32)).reshape(-1)
  except NotFiniteError as error:
    raise errors.UserError(f"{file.path}: {error}") from None
  if len(divisors) == head_dim // 2 and np.all(divisors == 1):
    return None
  low, high, context = _LLAMA3
  factor = float(divisors.max())
  scaling = {
    "rope_type": "llama3",
    "factor": factor,
    "low_freq_factor": low,
    "high_freq_factor": high,
    "original_max_position_embeddings": context,
  }
  expected = llama3_divisors(theta, head_dim, scaling)
  if expected.shape != divisors.shape or not np.allclose(
    divisors, expected, rtol=_TOLERANCE, atol=0
  ):
    raise file.error(
      TENSOR,
      "divisors of the rotary frequencies found that are not Llama 3's"
      f" (factor {factor:g}, low_freq_factor {low:g}, high_freq_factor"
      f" {high:g}, original context {context})",
    )
  return scaling


def llama3_divisors(
  theta: float, head_dim: int, scaling: dict[str, Any]
) -> np.ndarray:
  """Returns what Llama 3 divides each rotary frequency by, [head_dim / 2].

  Frequencies that turn less than `low_freq_factor` times in the original
  context are divided by `factor`, those that turn more than
  `high_freq_factor` times by 1; in between the frequency itself is
  interpolated.

  Args:
    theta: base of the frequencies.
    head_dim: of a head.
    scaling: as in config.json, of `rope_type` llama3.
  """
  frequencies = theta ** -(np.arange(0, head_dim, 2) / head_dim)
  turns = (
    scaling["original_max_position_embeddings"] * frequencies / (2 * np.pi)
  )
  low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
  kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
  return 1.0 / (kept + (1.0 - kept) / scaling["factor"])
