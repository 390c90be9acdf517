"""Rows of CSV files whose quotes may not be in pairs.

A quote that nothing closes takes every line up to the next quote, or the end
of the file, into one field: titles and ratings would be gone without a word.
So a row that goes on over ends of lines is refused unless it is plainly a
text with line breaks: where it has one in a field that never does, such as an
id, where one of its further lines would be a row by itself, where it goes on
for too long, and where the file ends within it.
"""

import csv
import pathlib
from collections.abc import Collection, Iterable, Iterator

from bigrec_jax import errors
from bigrec_jax.data.formats import opened

# Ends of lines in one row; the longest reviews have some dozens.
MOST_BREAKS = 1000
_END = "\0end\0"  # Behind the last line, and a row of its own if all is well.

# Python's own bound of a field is 131,072 characters; a list of a user's ids
# may be longer.
csv.field_size_limit(opened.LONGEST_LINE)


class Rows:
  """The rows of a file in turn, as (line where it begins, fields).

  Attributes:
    keys: columns that hold no line breaks; may be set after the header.
  """

  def __init__(
    self, path: pathlib.Path, lines: Iterable[str], separator: str = ","
  ):
    """Reads nothing yet.

    Args:
      path: for messages.
      lines: of the file with their ends.
      separator: between fields.
    """
    self.keys: Collection[int] = ()
    self._path = path
    self._separator = separator
    self._lines = lines
    self._read = 0  # Lines.
    self._started = 1  # The line where the row being read begins.
    self._further: list[str] = []  # Lines of that row after its first.
    self._width: int | None = None

  def __iter__(self) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(self._fed(), delimiter=self._separator)
    try:
      for row in reader:
        started = self._started
        if self._read > started:
          self._check(row)
          self._further.clear()
        elif len(row) == 1 and row[0] == _END:
          return
        self._started = self._read + 1
        if started == 1:
          self._width = len(row)
        if row:
          yield started, row
    except csv.Error as error:
      raise self._error(f"{error} found, rows of fields expected") from None

  def _fed(self) -> Iterator[str]:
    for line in self._lines:
      self._read += 1
      if self._read > self._started:
        if self._read - self._started > MOST_BREAKS:
          raise self._error(
            f"a quote opens that the next {MOST_BREAKS:,} lines don't close,"
            " quotes in pairs expected"
          )
        self._further.append(line)
      yield line
    self._read += 1
    yield _END

  def _check(self, row: list[str]) -> None:
    """Raises UserError where lines became part of a row that isn't theirs."""
    if any(_END in field for field in row):
      raise self._error(
        "a quote opens that nothing closes, quotes in pairs expected"
      )
    if self._width is None:
      raise self._error("a header with line breaks found, one line expected")
    for column in self.keys:
      if column < len(row) and ("\n" in row[column] or "\r" in row[column]):
        raise self._error(
          f"a quote opens that no line before {self._read} closes, in a field"
          " without line breaks, quotes in pairs expected"
        )
    for number, line in enumerate(self._further, self._started + 1):
      # The last one has the quote that closes, which by itself opens.
      alone = next(csv.reader([line], delimiter=self._separator), [])
      bare = line.rstrip("\r\n").split(self._separator)
      if self._is_row(alone, row) or self._is_row(bare, row):
        raise self._error(
          f"a quote opens that would take line {number}, a row of its own,"
          " into a field, quotes in pairs expected"
        )

  def _is_row(self, alone: list[str], row: list[str]) -> bool:
    """Returns whether a line by itself has the form of the other rows."""
    if len(alone) != self._width or not self.keys:
      return False
    return all(
      bool(alone[column].strip())
      and (column >= len(row) or _form(alone[column]) == _form(row[column]))
      for column in self.keys
    )

  def _error(self, problem: str) -> errors.UserError:
    return errors.UserError(f"{self._path}: line {self._started}: {problem}")


def _form(text: str) -> str:
  """Returns what kind of word an id or a number is."""
  text = text.strip()
  if text.replace(".", "", 1).isdecimal():
    return "number"
  if any(c.isspace() for c in text):
    return "words"
  return "code" if any(c.isdecimal() for c in text) else "word"
