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
from collections.abc import (
  Callable,
  Collection,
  Iterator,
  Mapping,
  Sequence,
)
from typing import Any

import ml_dtypes
import numpy as np
from absl import logging

from bigrec_jax import errors
from bigrec_jax.workdir import faults, fields, leftovers, storage

_DTYPES = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
WHOLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
# Of an adapter's metadata: the fingerprint of the base it was trained on.
BASE = "bigrec_jax.base"
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

  @property
  def nbytes(self) -> int:
    """Its bytes on disk."""
    return math.prod(self.shape) * self.dtype.itemsize

  def view(self) -> np.ndarray:
    """Returns a read-only array that reads from disk where it is indexed."""
    if not math.prod(self.shape):
      return np.zeros(self.shape, self.dtype)
    return np.memmap(self.file, self.dtype, "r", self.offset, self.shape)


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  values: dict[str, Any] = {}
  for name, value in pairs:
    if name in values:
      raise errors.UserError(f"{shown(name)}: found twice, once expected")
    values[name] = value
  return values


def shown(name: str) -> str:
  """Returns a tensor's name for a message: whatever the file says, a line."""
  own = repr(name)[1:-1]
  return own if len(own) <= 100 else f"{own[:97]}..."


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
  except OSError as error:
    raise errors.UserError(f"{file}: {error.strerror}") from None
  try:
    header = json.loads(text, object_pairs_hook=_reject_duplicates)
  except errors.UserError as error:
    raise errors.UserError(f"{file}: {error}") from None
  except (ValueError, RecursionError):
    raise broken from None
  if not isinstance(header, dict):
    raise broken
  header.pop("__metadata__", None)
  return header, 8 + length, size


def read_metadata(file: pathlib.Path) -> dict[str, str]:
  """Returns what a file says beside its tensors; {} where it isn't whole."""
  try:
    with open(file, "rb") as stream:
      length = int.from_bytes(stream.read(8), "little")
      header = json.loads(stream.read(min(length, _MAX_HEADER)))
  except (OSError, ValueError, RecursionError):
    return {}  # Whoever reads the tensors says what is wrong.
  found = header.get("__metadata__") if isinstance(header, dict) else None
  if not isinstance(found, dict):
    return {}
  return {key: text for key, text in found.items() if isinstance(text, str)}


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
  tensors = {
    name: _stored(file, name, entry, start)
    for name, entry in header.items()
    if name not in skip
  }
  end = start
  # The format leaves no holes and shares no bytes; in their order, each
  # tensor begins where the one before it ends. What `skip` leaves out may be
  # of any type, so holes are looked for where nothing is left out.
  for tensor in sorted(tensors.values(), key=lambda x: (x.offset, x.nbytes)):
    if tensor.offset < end:
      raise errors.UserError(
        f"{file}: {shown(tensor.name)}: overlaps another tensor, a range of"
        " its own expected"
      )
    end = tensor.offset + tensor.nbytes
    if end > size:
      raise errors.UserError(
        f"{file}: {shown(tensor.name)}: cut short, {end} bytes expected,"
        f" {size} found"
      )
  if len(tensors) == len(header):
    held = sum(tensor.nbytes for tensor in tensors.values())
    if start + held != size:
      raise errors.UserError(
        f"{file}: {size - start - held} bytes that are of no tensor found,"
        " none expected: the file is damaged"
      )
  return tensors


def _stored(
  file: pathlib.Path, name: str, entry: Any, start: int
) -> StoredTensor:
  """Returns a tensor as the header has it; its range may lie anywhere."""
  where = f"{file}: {shown(name)}"
  try:
    code, shape = entry["dtype"], tuple(entry["shape"])
    first, last = entry["data_offsets"]
  except (KeyError, TypeError, ValueError):
    raise errors.UserError(
      f"{where}: no dtype, shape and data_offsets in the header"
    ) from None
  if not isinstance(code, str) or code not in _DTYPES:
    raise errors.UserError(
      f"{where}: dtype {shown(str(code))} found, one of"
      f" {', '.join(_DTYPES)} expected (load an unquantised checkpoint)"
    )
  dtype = _DTYPES[code]
  for number in (*shape, first, last):
    if type(number) is not int or not 0 <= number < 1 << 63:
      raise errors.UserError(
        f"{where}: {shown(str(number))} found in shape or data_offsets, a"
        " whole number of at least 0 expected"
      )
  tensor = StoredTensor(name, file, dtype, shape, start + first)
  if last - first != tensor.nbytes:
    raise errors.UserError(
      f"{where}: {last - first} bytes found, shape {list(shape)} of {code}"
      " expected"
    )
  return tensor


def open_checkpoint(
  directory: pathlib.Path, skip: Collection[str] = ()
) -> dict[str, StoredTensor]:
  """Returns all tensors of a Hugging Face model directory.

  As transformers has it, model.safetensors goes before an index of shards:
  one that is there as well was left by an earlier save.

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
  index, single = directory / INDEX_FILE, directory / WHOLE_FILE
  if single.is_file():
    if index.is_file():
      logging.warning(
        "%s: not read, for %s is there too and goes before it (an index and"
        " shards of an earlier save may be deleted)",
        index,
        WHOLE_FILE,
      )
    return read_file(single, skip)
  if index.is_file():
    return _open_indexed(directory, index, skip)
  raise errors.UserError(_nothing_to_read(directory))


def _nothing_to_read(directory: pathlib.Path) -> str:
  """Returns what a directory without the expected files seems to be."""
  expected = f"{WHOLE_FILE} or {INDEX_FILE} expected"
  if torch_files := sorted(directory.glob("*.bin")):
    return (
      f"{torch_files[0]}: a torch checkpoint found, safetensors expected:"
      " convert it with transformers' save_pretrained(...,"
      " safe_serialization=True)"
    )
  for name, found in (
    (
      "adapter_model.safetensors",
      "a PEFT adapter found (config.model.adapter)",
    ),
    ("consolidated*.safetensors", "weights in Mistral's own layout found"),
    ("consolidated*.pth", "weights in Meta's own layout found"),
    ("model.*.safetensors*", "a variant of the weights found"),
    ("model-*-of-*.safetensors", "shards without their index found"),
    ("*.gguf", "a GGUF file found (config.model.path may name it)"),
    ("*.safetensors", "safetensors of another name found"),
  ):
    if files := sorted(directory.glob(name)):
      return f"{files[0]}: {found}, {expected}"
  return f"{directory}: no {WHOLE_FILE} or {INDEX_FILE} found"


def _open_indexed(
  directory: pathlib.Path, index: pathlib.Path, skip: Collection[str]
) -> dict[str, StoredTensor]:
  weight_map = fields.Fields(storage.read_json(index), f"{index}:").get(
    "weight_map", fields.mapping(fields.text)
  )
  if not weight_map:
    raise errors.UserError(f"{index}: no weight_map found")
  tensors: dict[str, StoredTensor] = {}
  for file_name in sorted(set(weight_map.values())):
    if pathlib.PurePath(file_name).name != file_name:
      raise fields.refuse(f"{index}: weight_map", file_name, "a file's name")
    for name, tensor in read_file(directory / file_name, skip).items():
      if name in tensors:
        raise errors.UserError(
          f"{tensor.file}: {shown(name)}: also in {tensors[name].file.name},"
          " one file expected"
        )
      tensors[name] = tensor
  for name, file_name in weight_map.items():
    if name in skip:
      continue
    if name not in tensors or tensors[name].file.name != file_name:
      raise errors.UserError(
        f"{directory / file_name}: {shown(name)}: missing, though"
        f" {index.name} says that it is there"
      )
  shards = {path.name for path in directory.glob("model-*-of-*.safetensors")}
  if others := sorted(shards - set(weight_map.values())):
    logging.warning(
      "%s: not read, %s doesn't name it", directory / others[0], index.name
    )
  return tensors


def write_file(
  file: pathlib.Path,
  tensors: Sequence[tuple[str, np.dtype, tuple[int, ...]]],
  value: Callable[[str], np.ndarray],
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes a safetensors file, holding one tensor in memory at a time.

  Args:
    file: written atomically.
    tensors: name, dtype and shape of each.
    value: returns a tensor by name.
    metadata: kept beside them.
  """
  own = {"format": "pt"} | dict(metadata or {})
  header: dict[str, Any] = {"__metadata__": own}
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
  temporary = leftovers.unique(directory)
  temporary.mkdir()
  try:
    with faults.writing(directory, temporary):
      yield temporary
      if not directory.exists():
        os.replace(temporary, directory)
      elif not _exchange(temporary, directory):
        old = leftovers.unique(directory).with_suffix(".old")
        os.replace(directory, old)
        os.replace(temporary, directory)
        shutil.rmtree(old)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
