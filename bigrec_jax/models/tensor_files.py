"""Safetensors files: read by memory map, written one tensor at a time.

The format is 8 bytes of header length, a JSON header that gives each tensor's
dtype, shape and byte range, and the bytes (huggingface/safetensors,
README.md). Reading it here rather than through a framework gives slices of
bfloat16 tensors as numpy arrays without a copy, and errors that name the
tensor and the file.
"""

import contextlib
import ctypes
import dataclasses
import json
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from bigrec_jax import errors
from bigrec_jax.workdir import faults, storage

_DTYPES = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_MAX_HEADER = 100_000_000  # Bytes; the format's own limit.


@dataclasses.dataclass(frozen=True)
class StoredTensor:
  """A tensor on disk.

  Attributes:
    name: in the file.
    file: that holds it.
    dtype: one of the float types.
    shape: as stored.
    offset: of its first byte in the file.
  """

  name: str
  file: pathlib.Path
  dtype: np.dtype
  shape: tuple[int, ...]
  offset: int

  def view(self) -> np.ndarray:
    """Returns a read-only array that reads from disk where it is indexed."""
    if not math.prod(self.shape):
      return np.zeros(self.shape, self.dtype)
    return np.memmap(self.file, self.dtype, "r", self.offset, self.shape)


def _reject_duplicates(file: pathlib.Path) -> Callable[[list], dict]:
  def hook(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
      names = [name for name, _ in pairs]
      twice = next(name for name in names if names.count(name) > 1)
      raise errors.UserError(f"{file}: {twice}: found twice, once expected")
    return values

  return hook


def _read_header(file: pathlib.Path) -> tuple[dict[str, Any], int, int]:
  """Returns the header, where the tensor bytes start, and the file's size."""
  broken = errors.UserError(
    f"{file}: damaged or cut short, a whole safetensors file expected"
  )
  try:
    size = file.stat().st_size
    with open(file, "rb") as stream:
      length = int.from_bytes(stream.read(8), "little")
      if size < 8 or length > min(size - 8, _MAX_HEADER):
        raise broken
      text = stream.read(length)
  except FileNotFoundError:
    raise errors.UserError(f"{file}: not found") from None
  try:
    header = json.loads(text, object_pairs_hook=_reject_duplicates(file))
  except (json.JSONDecodeError, UnicodeDecodeError):
    raise broken from None
  if not isinstance(header, dict):
    raise broken
  header.pop("__metadata__", None)
  return header, 8 + length, size


def read_file(
  file: pathlib.Path, skip: Collection[str] = ()
) -> dict[str, StoredTensor]:
  """Returns the tensors of one safetensors file, without their bytes.

  Args:
    file: to read.
    skip: names of tensors that are left out, whatever they hold.

  Raises:
    UserError: the file is missing, damaged or cut short, or a tensor is not
      of a float type.
  """
  header, start, size = _read_header(file)
  tensors = {}
  for name, entry in header.items():
    if name in skip:
      continue
    try:
      code, shape = entry["dtype"], tuple(entry["shape"])
      first, last = entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
      raise errors.UserError(
        f"{file}: {name}: no dtype, shape and data_offsets in the header"
      ) from None
    if code not in _DTYPES:
      raise errors.UserError(
        f"{file}: {name}: dtype {code} found, one of {', '.join(_DTYPES)}"
        " expected (load an unquantised checkpoint)"
      )
    dtype = _DTYPES[code]
    if last - first != math.prod(shape) * dtype.itemsize:
      raise errors.UserError(
        f"{file}: {name}: {last - first} bytes found, shape {list(shape)} of"
        f" {code} expected"
      )
    if start + last > size:
      raise errors.UserError(
        f"{file}: {name}: cut short, {start + last} bytes expected, {size}"
        " found"
      )
    tensors[name] = StoredTensor(name, file, dtype, shape, start + first)
  return tensors


def open_checkpoint(
  directory: pathlib.Path, skip: Collection[str] = ()
) -> dict[str, StoredTensor]:
  """Returns all tensors of a Hugging Face model directory.

  Args:
    directory: with safetensors, in one file or several.
    skip: names of tensors that are left out, whatever they hold.

  Raises:
    UserError: no safetensors there, or the index and the files disagree.
  """
  if not directory.is_dir():
    raise errors.UserError(
      f"{directory}: not found, a Hugging Face model directory expected"
    )
  index = directory / "model.safetensors.index.json"
  if index.is_file():
    return _open_indexed(directory, index, skip)
  single = directory / "model.safetensors"
  if single.is_file():
    return read_file(single, skip)
  if torch_files := sorted(directory.glob("*.bin")):
    raise errors.UserError(
      f"{torch_files[0]}: a torch checkpoint found, safetensors expected:"
      " convert it with transformers' save_pretrained(...,"
      " safe_serialization=True)"
    )
  raise errors.UserError(
    f"{directory}: no model.safetensors or model.safetensors.index.json found"
  )


def _open_indexed(
  directory: pathlib.Path, index: pathlib.Path, skip: Collection[str]
) -> dict[str, StoredTensor]:
  weight_map = storage.read_json(index).get("weight_map")
  if not isinstance(weight_map, dict) or not weight_map:
    raise errors.UserError(f"{index}: no weight_map found")
  tensors: dict[str, StoredTensor] = {}
  for file_name in sorted(set(weight_map.values())):
    for name, tensor in read_file(directory / file_name, skip).items():
      if name in tensors:
        raise errors.UserError(
          f"{tensor.file}: {name}: also in {tensors[name].file.name}, one file"
          " expected"
        )
      tensors[name] = tensor
  for name, file_name in weight_map.items():
    if name in skip:
      continue
    if name not in tensors or tensors[name].file.name != file_name:
      raise errors.UserError(
        f"{directory / file_name}: {name}: missing, though {index.name} says"
        " that it is there"
      )
  return tensors


def write_file(
  file: pathlib.Path,
  tensors: Sequence[tuple[str, np.dtype, tuple[int, ...]]],
  value: Callable[[str], np.ndarray],
) -> None:
  """Writes a safetensors file, holding one tensor in memory at a time.

  Args:
    file: written atomically.
    tensors: name, dtype and shape of each.
    value: returns a tensor by name.
  """
  header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
  offset = 0
  for name, dtype, shape in tensors:
    dtype = np.dtype(dtype)
    end = offset + math.prod(shape) * dtype.itemsize
    header[name] = {
      "dtype": _CODES[dtype],
      "shape": list(shape),
      "data_offsets": [offset, end],
    }
    offset = end
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)  # The format aligns the first tensor.
  with storage.atomic_path(file) as temporary:
    with open(temporary, "wb") as stream:
      stream.write(len(text).to_bytes(8, "little") + text)
      for name, dtype, shape in tensors:
        array = np.ascontiguousarray(value(name))
        if array.dtype != dtype or array.shape != tuple(shape):
          raise ValueError(f"{name}: {array.dtype=} {array.shape=} {shape=}")
        stream.write(array.reshape(-1).view(np.uint8).data)
      stream.flush()
      os.fsync(stream.fileno())


def _exchange(first: pathlib.Path, second: pathlib.Path) -> bool:
  """Swaps two directories in one step (Linux); False where it cannot."""
  renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
  if renameat2 is None:
    return False
  at_cwd, swap = -100, 2
  paths = (os.fsencode(first), os.fsencode(second))
  return renameat2(at_cwd, paths[0], at_cwd, paths[1], swap) == 0


@contextlib.contextmanager
def atomic_directory(directory: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields an empty sibling that replaces `directory` once the block succeeds.

  Readers see the old files or the new ones, never some of each.
  """
  directory = pathlib.Path(directory)
  directory.parent.mkdir(parents=True, exist_ok=True)
  temporary = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
  shutil.rmtree(temporary, ignore_errors=True)
  temporary.mkdir()
  try:
    with faults.writing(directory, temporary):
      yield temporary
      if not directory.exists():
        os.replace(temporary, directory)
      elif not _exchange(temporary, directory):
        old = directory.with_name(f".{directory.name}.{os.getpid()}.old")
        os.replace(directory, old)
        os.replace(temporary, directory)
        shutil.rmtree(old)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
