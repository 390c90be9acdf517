"""The outline of a GGUF file, walked through before anything believes it.

Counts, lengths and offsets are numbers in the file, and the package that reads
it takes them as they are: 2**60 elements of an array that ends after two would
fill the memory. Here nothing is kept; every number must fit in the file.
"""

import mmap
import pathlib
import struct

from bigrec_jax import errors

# Bytes of a value, by the number of its type.
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_MOST_DIMENSIONS = 4


def check(path: pathlib.Path) -> None:
  """Raises UserError where the file is not built as a GGUF file."""
  try:
    with open(path, "rb") as stream:
      with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        _Walk(content).run()
  except ValueError as error:  # An empty file can't be mapped either.
    raise errors.UserError(
      f"{path}: damaged or cut short, a whole GGUF file expected: {error}"
    ) from None
  except OSError as error:
    raise errors.UserError(f"{path}: {error.strerror}") from None


class _Walk:
  """One pass over the head of a file; raises ValueError where it ends early."""

  def __init__(self, content: mmap.mmap):
    self._content = content
    self._size = len(content)
    self._at = 0

  def run(self) -> None:
    """Walks over keys, values and the table of tensors."""
    magic, version = self._take("<4sI")
    if magic != b"GGUF":
      raise ValueError("it does not begin with GGUF")
    if version & 0xFFFF == 0:
      return  # The other byte order: refused by name later.
    if version not in _VERSIONS:
      raise ValueError(f"version {version} found, 2 or 3 expected")
    tensors, keys = self._take("<QQ")
    self._check_count("keys", keys, 13)
    self._check_count("tensors", tensors, 24)
    for _ in range(keys):
      self._skip_text("the name of a key")
      self._skip_value(*self._take("<I"))
    for _ in range(tensors):
      self._skip_text("the name of a tensor")
      (dimensions,) = self._take("<I")
      if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise ValueError(f"a tensor of {dimensions} dimensions found")
      elements = 1
      for size in self._take(f"<{dimensions}Q"):
        elements *= size
      # A quantised element takes a bit at least.
      if elements > self._size * 8:
        raise ValueError(f"a tensor of {elements} elements found")
      _, offset = self._take("<IQ")
      if offset > self._size:
        raise ValueError(f"a tensor at byte {offset} found")

  def _take(self, layout: str) -> tuple:
    size = struct.calcsize(layout)
    self._check_room("a number", size)
    found = struct.unpack_from(layout, self._content, self._at)
    self._at += size
    return found

  def _check_room(self, what: str, size: int) -> None:
    if size > self._size - self._at:
      raise ValueError(f"{what} of {size} bytes at byte {self._at} found")

  def _check_count(self, what: str, count: int, smallest: int) -> None:
    if count * smallest > self._size - self._at:
      raise ValueError(f"{count} {what} found at byte {self._at}")

  def _skip_text(self, what: str) -> None:
    (size,) = self._take("<Q")
    self._check_room(what, size)
    self._at += size

  def _skip_value(self, kind: int) -> None:
    if kind in _SCALARS:
      self._check_room("a value", _SCALARS[kind])
      self._at += _SCALARS[kind]
    elif kind == _STRING:
      self._skip_text("a text")
    elif kind == _ARRAY:
      self._skip_array()
    else:
      raise ValueError(f"a value of type {kind} found")

  def _skip_array(self) -> None:
    kind, count = self._take("<IQ")
    if kind in _SCALARS:
      self._check_room("an array", count * _SCALARS[kind])
      self._at += count * _SCALARS[kind]
    elif kind == _STRING:
      self._check_count("texts", count, 8)
      for _ in range(count):
        self._skip_text("a text")
    else:  # Arrays of arrays are possible, and no model has any.
      raise ValueError(f"an array of type {kind} found")
