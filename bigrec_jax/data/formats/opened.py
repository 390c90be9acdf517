"""Raw files as bytes, plain or .gz, that damage can't swallow.

What is no text is named before anything is read of it: an archive, UTF-32, a
.gz that isn't one. What is text is decoded by encodings.py. A line without an
end, as a damaged file or a gzip bomb has it, is refused at a bound and never
held in memory.
"""

import contextlib
import gzip
import io
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

from bigrec_jax import errors

# Bytes of a line; the longest of published data, a review, has some 100 kB.
LONGEST_LINE = 1 << 24
# Bytes of a file that can only be read as a whole (id -> title as JSON).
LONGEST_FILE = 1 << 30
_HEAD = 64
_LEAST_READ = 1 << 16  # Bytes.
_KINDS = {
  b"\x1f\x8b": "gzip data",
  b"PK\x03\x04": "a zip archive",
  b"BZh": "bzip2 data",
  b"\xfd7zXZ\x00": "xz data",
  b"\x28\xb5\x2f\xfd": "zstandard data",
  b"7z\xbc\xaf\x27\x1c": "a 7z archive",
  b"PAR1": "a Parquet file",
  b"\xff\xfe\x00\x00": "UTF-32 text",
  b"\x00\x00\xfe\xff": "UTF-32 text",
}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class Place:
  """How far a file has been read, for messages; `done` units of it were."""

  def __init__(self, path: pathlib.Path, unit: str):
    self.path, self.unit = path, unit
    self.done = 0


class _EndlessLineError(Exception):
  """A line went beyond its bound."""


@contextlib.contextmanager
def _damage_named(place: Place) -> Iterator[None]:
  """Turns what damaged data raise into one line."""
  where = f"{place.path}: {place.unit}"
  try:
    yield
  except (EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise errors.UserError(
      f"{where} {place.done + 1}: damaged or truncated gzip data found"
      f" ({error}), a complete .gz expected"
    ) from None
  except _EndlessLineError:
    raise errors.UserError(
      f"{where} {place.done + 1}: more than {LONGEST_LINE:,} bytes found"
      " without the end of a line, lines of text expected"
    ) from None


_Bytes = gzip.GzipFile | io.BufferedReader


@contextlib.contextmanager
def binary(place: Place, is_utf16: bool = False) -> Iterator[_Bytes]:
  """Yields the unpacked bytes of a text file.

  Args:
    place: of the file; the reader counts in it what it has read.
    is_utf16: it is, whether or not it begins with a mark.

  Raises:
    UserError: the file is no text, or damaged or truncated gzip data.
  """
  packed = place.path.name.endswith(".gz")
  file: _Bytes
  with (
    _damage_named(place),
    gzip.open(place.path) if packed else open(place.path, "rb") as file,
  ):
    head = file.peek(_HEAD)[:_HEAD]
    if kind := _kind(head, is_utf16):
      expected = "text expected"
      if kind == "gzip data" and not packed:
        expected = "text, or a name that ends with .gz, expected"
      raise errors.UserError(f"{place.path}: {kind} found, {expected}")
    yield file


def is_utf16(head: bytes) -> bool:
  """Returns whether a file begins as UTF-16 text with a mark does."""
  return head.startswith(_UTF16) and _kind(head) is None


def _kind(head: bytes, is_utf16: bool = False) -> str | None:
  """Returns what a file is that is no text; None for text."""
  for magic, kind in _KINDS.items():
    if head.startswith(magic):
      return kind
  if is_utf16 or head.startswith(_UTF16):
    return None
  if len(head) > 3 and head.count(0) > len(head) // 4:
    return "binary data or UTF-16 text without its mark"
  return None


def bounded(file: _Bytes) -> Any:
  """Returns bytes whose lines have an end within LONGEST_LINE.

  To read beyond it ends in a UserError, as damage does, within `binary`.
  """
  return _BoundLines(file)


def content(path: pathlib.Path, is_utf16: bool = False) -> bytes:
  """Returns all bytes of a file that can't be read in parts, unpacked.

  Args:
    path: the file.
    is_utf16: as of `binary`.

  Raises:
    UserError: as `binary`, and beyond LONGEST_FILE.
  """
  with binary(Place(path, "line"), is_utf16) as file:
    found = file.read(LONGEST_FILE + 1)
  if len(found) > LONGEST_FILE:
    raise errors.UserError(
      f"{path}: more than {LONGEST_FILE:,} bytes found, fewer expected of a"
      " file of this kind"
    )
  return found


class _BoundLines(io.BufferedIOBase):
  """Bytes as they are, as long as lines end somewhere."""

  def __init__(self, file: _Bytes):
    self._file = file
    self._since = 0  # Bytes since the last end of a line.

  def readable(self) -> bool:
    return True

  def read1(self, size: int = -1, /) -> bytes:
    chunk = self._file.read1(max(size, _LEAST_READ))
    last = max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))
    self._since = len(chunk) - last - 1 + (self._since if last < 0 else 0)
    if self._since > LONGEST_LINE:
      raise _EndlessLineError
    return chunk

  def read(self, size: int | None = -1, /) -> bytes:
    if size is not None and size >= 0:
      return self.read1(size)
    return b"".join(iter(self.read1, b""))
