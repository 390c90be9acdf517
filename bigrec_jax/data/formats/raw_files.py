"""Reading raw text and JSON files, plain or .gz, with errors that name a line.

Text is UTF-8. A line that isn't is read as ISO-8859-1, which accepts any
bytes, and counted, so that one bad byte in ten million lines neither stops
nor silently changes anything.
"""

import contextlib
import gzip
import io
import json
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

from bigrec_jax import errors
from bigrec_jax.data.prepared import doctor as doctor_lib
from bigrec_jax.workdir import given as given_paths

_CHUNK = 1 << 20  # Characters read at a time from a JSON array.
_LONGEST_ROW = 1 << 24  # Characters; a row beyond that is taken for damage.


def find(directory: str, *names: str) -> pathlib.Path | None:
  """Returns the first of `names` in a folder, plain before .gz, or None."""
  for name in names:
    for candidate in (name, f"{name}.gz"):
      path = pathlib.Path(directory) / candidate
      if path.is_file():
        return path
  return None


def given(key: str, value: str) -> pathlib.Path:
  """Returns the file that a configuration key names.

  Raises:
    UserError: the key is empty or there is no such file.
  """
  return given_paths.file(key, value)


def given_directory(key: str, value: str) -> pathlib.Path:
  """Returns the folder that a configuration key names.

  Raises:
    UserError: the key is empty or there is no such folder.
  """
  return given_paths.folder(key, value, "the folder of the raw files")


@contextlib.contextmanager
def _damage_named(
  path: pathlib.Path, done: list[int], unit: str
) -> Iterator[None]:
  """Turns what a damaged .gz raises into one line; `done` units were read."""
  try:
    yield
  except (EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise errors.UserError(
      f"{path}: {unit} {done[0] + 1}: damaged or truncated gzip data found"
      f" ({error}), a complete .gz expected"
    ) from None


def _open(path: pathlib.Path) -> io.TextIOBase:
  opener = gzip.open if path.name.endswith(".gz") else open
  return opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape")


def lines(
  path: pathlib.Path, doctor: doctor_lib.Doctor
) -> Iterator[tuple[int, str]]:
  r"""Yields (line number from 1, line without its end).

  Lines end with \n, \r\n or \r and nothing else, as for Python's text files.

  Raises:
    UserError: the file is damaged or truncated gzip data.
  """
  number = [0]
  misread = 0
  with _damage_named(path, number, "line"), _open(path) as file:
    for number[0], line in enumerate(file, 1):  # noqa: B020
      if not line.isascii():
        line, wrong = _utf8_or_latin1(line)
        misread += wrong
      yield number[0], line.rstrip("\n")
  if misread:
    doctor.found(
      "lines that aren't UTF-8, read as ISO-8859-1", misread, [path.name]
    )


def _utf8_or_latin1(text: str) -> tuple[str, bool]:
  """Repairs text read with `surrogateescape`; True where it had to be."""
  try:
    text.encode("utf-8")
  except UnicodeEncodeError:
    raw = text.encode("utf-8", "surrogateescape")
    return raw.decode("iso-8859-1"), True
  return text, False


def repaired(text: str) -> str:
  """Replaces halves of surrogate pairs by U+FFFD.

  JSON can hold them as escapes, but they aren't text: no UTF-8 file and no
  tokenizer takes them.
  """
  if text.isascii():
    return text
  return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def content(path: pathlib.Path) -> bytes:
  """Returns all bytes of a small file, unpacked.

  Raises:
    UserError: the file is damaged or truncated gzip data.
  """
  opener = gzip.open if path.name.endswith(".gz") else open
  with _damage_named(path, [0], "line"), opener(path, "rb") as file:
    return file.read()


def json_lines(
  path: pathlib.Path, doctor: doctor_lib.Doctor
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields (line number from 1, object) of a file with one object a line.

  Raises:
    UserError: a line isn't a JSON object.
  """
  for number, line in lines(path, doctor):
    if not line.strip():
      continue
    try:
      value = json.loads(line)
    except json.JSONDecodeError as error:
      hint = ""
      if line.startswith("{'"):
        hint = " (a Python dict of the 2014 release? rewrite it as JSON)"
      raise errors.UserError(
        f"{path}: line {number}: {error.msg} at column {error.colno}, a JSON"
        f" object expected{hint}"
      ) from None
    if not isinstance(value, dict):
      raise errors.UserError(
        f"{path}: line {number}: {type(value).__name__} found, a JSON object"
        " expected"
      )
    yield number, value


class _JsonStream:
  """The values of a JSON text, read chunk by chunk."""

  def __init__(self, file: io.TextIOBase):
    self._file = file
    self._decoder = json.JSONDecoder()
    self._text = ""
    self._position = 0

  def _read_more(self) -> bool:
    chunk = self._file.read(_CHUNK)
    self._text = self._text[self._position :] + chunk
    self._position = 0
    return bool(chunk)

  def peek(self) -> str:
    """Skips blanks; returns the next character, "" at the end."""
    while True:
      text, position = self._text, self._position
      while position < len(text) and text[position] in " \t\r\n":
        position += 1
      self._position = position
      if position < len(text):
        return text[position]
      if not self._read_more():
        return ""

  def skip(self) -> None:
    """Skips the character that `peek` gave."""
    self._position += 1

  def value(self) -> Any:
    """Returns the next value; JSONDecodeError where there is none."""
    while True:
      try:
        value, end = self._decoder.raw_decode(self._text, self._position)
      except json.JSONDecodeError:
        # The value may go on in the next chunk.
        if len(self._text) - self._position > _LONGEST_ROW:
          raise
        if not self._read_more():
          raise
        continue
      self._position = end
      return value


def json_rows(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields (row number from 1, object) of a JSON array or of JSON lines.

  The file is streamed: a published train.json of MovieLens-10M has 8 GB.

  Raises:
    UserError: the file is not an array of objects, or it is damaged.
  """
  row = [0]
  with _damage_named(path, row, "row"), _open(path) as file:
    stream = _JsonStream(file)
    is_array = stream.peek() == "["
    if is_array:
      stream.skip()
    while (following := stream.peek()) not in ("", "]"):
      if is_array and row[0]:
        if following != ",":
          raise errors.UserError(
            f"{path}: row {row[0] + 1}: {following!r} found, ',' or ']'"
            " expected"
          )
        stream.skip()
      yield row[0] + 1, _object(path, row[0] + 1, stream)
      row[0] += 1
    if is_array and following != "]":
      raise errors.UserError(
        f"{path}: the file ends after row {row[0]}, ']' expected"
      )


def _object(
  path: pathlib.Path, row: int, stream: _JsonStream
) -> dict[str, Any]:
  try:
    stream.peek()
    value = stream.value()
  except json.JSONDecodeError as error:
    raise errors.UserError(
      f"{path}: row {row}: not valid JSON: {error.msg}"
    ) from None
  if not isinstance(value, dict):
    raise errors.UserError(
      f"{path}: row {row}: {type(value).__name__} found, an object with"
      " instruction, input and output expected"
    )
  return value
