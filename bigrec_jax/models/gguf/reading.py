"""A GGUF file opened: metadata as Python values, tensors as rows on disk.

GGUF is llama.cpp's container: key-value metadata, a table of tensors, and their
bytes in blocks of a quantisation type. The package `gguf`, of the same project,
reads and dequantises; here its errors become lines that name file and tensor.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigrec_jax import errors
from bigrec_jax.models.gguf import structure

# Elements that are dequantised at a time: 16 MiB of float32.
_BLOCK = 1 << 22


class NotFiniteError(Exception):
  """A tensor has a NaN or an infinity; the message names it, not the file."""


@dataclasses.dataclass(frozen=True)
class GgufTensor:
  """A tensor of the file, quantised or not, not read yet.

  Attributes:
    name: in the file.
    kind: its quantisation type, such as `Q4_1`, `F16` or `F32`.
    shape: as numpy has it, rows first.
    packed: [rows, bytes or values of a row], a view of the file.
  """

  name: str
  kind: str
  shape: tuple[int, ...]
  packed: np.ndarray

  def values(
    self, dtype: np.dtype, order: np.ndarray | None = None
  ) -> np.ndarray:
    """Returns the dequantised tensor, made some rows at a time.

    Args:
      dtype: of the result.
      order: int [rows], the stored row that becomes each row; None = as is.

    Raises:
      NotFiniteError: a value is NaN or infinite.
    """
    from gguf import GGMLQuantizationType, quants

    count, width = len(self.packed), self.shape[-1]
    out = np.empty((count, width), dtype)
    step = max(_BLOCK // width, 1)
    for at in range(0, count, step):
      rows = slice(at, at + step)
      part = self.packed[rows if order is None else order[rows]]
      values = quants.dequantize(part, GGMLQuantizationType[self.kind])
      if not np.isfinite(values).all():
        raise NotFiniteError(
          f"{self.name}: NaN or infinity found in a weight or a scale, finite"
          " ones expected: the file is damaged"
        )
      out[rows] = values
    return out.reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class GgufFile:
  """An open file.

  Attributes:
    path: of the file.
    metadata: its keys and their values; arrays are lists.
    tensors: by name, in the order of the file.
  """

  path: pathlib.Path
  metadata: Mapping[str, Any]
  tensors: Mapping[str, GgufTensor]

  def error(self, name: str, problem: str) -> errors.UserError:
    """Returns the error of a key or a tensor."""
    own = repr(name)[1:-1]  # Whatever the file says, a line.
    return errors.UserError(f"{self.path}: {own[:100]}: {problem}")


def open_file(path: pathlib.Path) -> GgufFile:
  """Opens a GGUF file; its tensors stay on disk.

  Raises:
    UserError: it is missing, no whole GGUF file, one of several parts, an
      adapter, or has a tensor of a type that cannot be dequantised.
  """
  if not path.is_file():
    raise errors.UserError(f"{path}: not found, a GGUF file expected")
  structure.check(path)
  import gguf

  try:
    reader = gguf.GGUFReader(path)
    metadata = {
      key: field.contents()
      for key, field in reader.fields.items()
      if not key.startswith("GGUF.")
    }
    tensors = {stored.name: _tensor(stored) for stored in reader.tensors}
  except Exception as error:  # It has no type of its own for a wrong file.
    reason = " ".join(repr(str(error))[1:-1].split())
    raise errors.UserError(
      f"{path}: damaged or of an unknown kind, a whole GGUF file expected:"
      f" {reason[:200]}"
    ) from None
  if reader.byte_order != "I":
    raise errors.UserError(
      f"{path}: a big-endian file found, a little-endian one expected"
    )
  file = GgufFile(path, metadata, tensors)
  _check(file)
  return file


def _tensor(stored: Any) -> GgufTensor:
  return GgufTensor(
    name=stored.name,
    kind=stored.tensor_type.name,
    shape=tuple(int(size) for size in reversed(stored.shape)),
    packed=stored.data.reshape(-1, stored.data.shape[-1]),
  )


def _check(file: GgufFile) -> None:
  parts = file.metadata.get("split.count", 1)
  if not isinstance(parts, int):
    raise file.error("split.count", f"{parts!r} found, a number expected")
  if parts > 1:
    raise file.error(
      "split.count",
      f"one of {parts} parts found, a model in one file expected (join them"
      " with `llama-gguf-split --merge`)",
    )
  kind = file.metadata.get("general.type", "model")
  if kind != "model":
    raise file.error("general.type", f"{kind!r} found, 'model' expected")
  possible = {tensor.kind for tensor in file.tensors.values()}
  possible = {kind for kind in possible if _can_dequantize(kind)}
  for tensor in file.tensors.values():
    if tensor.kind not in possible:
      raise file.error(
        tensor.name,
        f"type {tensor.kind} found, one of {', '.join(_supported())} expected",
      )


def _can_dequantize(kind: str) -> bool:
  from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

  member = GGMLQuantizationType[kind]
  _, size = GGML_QUANT_SIZES[member]
  try:
    quants.dequantize(np.zeros((1, size), np.uint8), member)
  except NotImplementedError:
    return False
  return True


def _supported() -> list[str]:
  """Returns the types that the package `gguf` can dequantise."""
  from gguf import GGMLQuantizationType

  return [k.name for k in GGMLQuantizationType if _can_dequantize(k.name)]
