"""Reading raw text and JSON files, plain or .gz, with errors that name a line.

What the bytes are as text, encodings.py says.
"""

import functools
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from bigrec_jax import errors
from bigrec_jax.data.formats import encodings, mistakes, opened
from bigrec_jax.data.prepared import doctor as doctor_lib
from bigrec_jax.workdir import given as given_paths, storage

T = TypeVar("T")

_CHUNK = 1 << 20  # Characters read at a time from a JSON array.
_LONGEST_ROW = opened.LONGEST_LINE  # Characters of a value in such an array.


def find(directory: str, *names: str) -> pathlib.Path | None:
  """Returns the first of `names` in a folder, plain before .gz, or None."""
  for name in names:
    for candidate in (name, f"{name}.gz"):
      path = pathlib.Path(directory) / candidate
      if _is(path, pathlib.Path.is_file):
        return path
  return None


def given(key: str, value: str) -> pathlib.Path:
  """Returns the file that a configuration key names.

  Raises:
    UserError: the key is empty or there is no such file.
  """
  return given_paths.file(key, value)


def given_all(
  named: Mapping[str, tuple[str, str]],
) -> dict[str, pathlib.Path]:
  """Returns the files of several keys, by role.

  Args:
    named: (key, value) of the configuration by role.

  Raises:
    UserError: as `given`, of all that aren't there.
  """
  readers = (functools.partial(given, *own) for own in named.values())
  return dict(zip(named, mistakes.gather(*readers), strict=True))


def given_directory(key: str, value: str) -> pathlib.Path:
  """Returns the folder that a configuration key names.

  Raises:
    UserError: the key is empty or there is no such folder.
  """
  return given_paths.folder(key, value, "the folder of the raw files")


def _is(path: pathlib.Path, test: Callable[[pathlib.Path], bool]) -> bool:
  """Returns a test's answer; False for what can't be a path at all."""
  try:
    return test(path)
  except (OSError, ValueError):  # Too long a name; a NUL.
    return False


def lines(
  path: pathlib.Path, doctor: doctor_lib.Doctor
) -> Iterator[tuple[int, str]]:
  r"""Yields (line number from 1, line without its end).

  Lines end with \n, \r\n or \r and nothing else, as for Python's text files.

  Raises:
    UserError: the file is damaged or no text (see opened.py).
  """
  text = encodings.Text(path)
  for number, line in enumerate(text.lines(), 1):
    yield number, line.rstrip("\n")
  text.tell(doctor)


def decoded(
  path: pathlib.Path,
  encoding: str,
  doctor: doctor_lib.Doctor,
  read: Callable[[Iterable[str]], T],
  newline: str | None = None,
) -> T:
  r"""Returns what `read` makes of the lines of a file in one encoding.

  Args:
    path: the file.
    encoding: one of `encodings.NAMES`.
    doctor: told how the file was read, where that makes a difference.
    read: gets the lines with their ends.
    newline: None makes every end of a line \n, "" keeps them.

  Raises:
    UserError: the file is damaged, no text, or not in the encoding.
  """
  text = encodings.Text(path, encoding)
  result = read(text.lines(newline))
  text.tell(doctor, of_utf8=True)
  return result


def repaired(text: str) -> str:
  """Replaces halves of surrogate pairs by U+FFFD.

  JSON can hold them as escapes, but they aren't text: no UTF-8 file and no
  tokenizer takes them.
  """
  if text.isascii():
    return text
  return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def json_lines(
  path: pathlib.Path, doctor: doctor_lib.Doctor, wrong: mistakes.Mistakes
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields (line number from 1, object) of a file with one object a line.

  Args:
    path: the file.
    doctor: told how it was read, where that makes a difference.
    wrong: where lines are noted that aren't a JSON object.
  """
  for number, line in lines(path, doctor):
    if not line.strip():
      continue
    place = f"line {number}"
    try:
      value = storage.parse_json(line, place)
    except errors.UserError as error:
      hint = ""
      if line.startswith("{'"):
        hint = " (a Python dict of the 2014 release? rewrite it as JSON)"
      problem = str(error).removeprefix(f"{place}: ")
      wrong.add("lines", place, f"{problem}; a JSON object expected{hint}")
      continue
    if not isinstance(value, dict):
      kind = type(value).__name__
      wrong.add("lines", place, f"{kind} found, a JSON object expected")
      continue
    yield number, value


def json_rows(
  path: pathlib.Path, doctor: doctor_lib.Doctor | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields (row number from 1, object) of a JSON array or of JSON lines.

  The file is streamed: a published train.json of MovieLens-10M has 8 GB.

  Raises:
    UserError: the file is not an array of objects, or it is damaged.
  """
  place, text = opened.Place(path, "row"), encodings.Text(path)
  with text.stream(place) as file:
    stream = _JsonStream(place, file)
    is_array = stream.peek() == "["
    end = "]" if is_array else ""
    if is_array:
      stream.skip()
    while (following := stream.peek()) not in ("", end):
      if is_array and place.done:
        if following != ",":
          raise stream.error(f"{following!r} found, ',' or ']' expected")
        stream.skip()
      yield place.done + 1, stream.object()
      place.done += 1
    if doctor is not None:
      text.tell(doctor)
    if not is_array:
      return
    if following != "]":
      raise errors.UserError(
        f"{path}: the file ends after row {place.done}, ']' expected"
      )
    stream.skip()
    if following := stream.peek():
      raise errors.UserError(
        f"{path}: {following!r} found behind the ']' after row {place.done},"
        " the end of the file expected (several arrays in one file?)"
      )


class _JsonStream:
  """The values of a JSON text, read chunk by chunk."""

  def __init__(self, place: opened.Place, file: encodings.Stream):
    self._place = place
    self._file = file
    self._text = ""
    self._position = 0

  def error(self, problem: str) -> errors.UserError:
    """Returns the error about the row that comes next."""
    return errors.UserError(
      f"{self._place.path}: row {self._place.done + 1}: {problem}"
    )

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

  def object(self) -> dict[str, Any]:
    """Returns the next value.

    Raises:
      UserError: there is none, or no object.
    """
    self.peek()
    try:
      value = self._value()
    except RecursionError:
      raise self.error("not valid JSON: nested too deeply") from None
    except json.JSONDecodeError as error:
      raise self.error(f"not valid JSON: {error.msg}") from None
    except ValueError as error:
      raise self.error(f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
      raise self.error(
        f"{type(value).__name__} found, an object with instruction, input and"
        " output expected"
      )
    return value

  def _value(self) -> Any:
    while True:
      try:
        value, end = storage.DECODER.raw_decode(self._text, self._position)
      except json.JSONDecodeError:
        # The value may go on in the next chunk.
        if len(self._text) - self._position > _LONGEST_ROW:
          raise ValueError(
            f"no end found within {_LONGEST_ROW:,} characters"
          ) from None
        if not self._read_more():
          raise
        continue
      self._position = end
      return value
