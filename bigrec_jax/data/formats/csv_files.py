"""Format `csv`: a table of interactions and one of items, with headers.

`data.interactions` has a column of users and one of items, maybe times and
ratings; `data.items` has the items' ids and titles. The separator is the one
that the header has most of (comma, semicolon, tab or bar), so that
BookCrossing's files are read as they come. Columns are named by
`data.columns`, or found by the names that data sets use.

Without times the order of the file is the order in time. Rows with another
number of fields than the header are left out and counted: in published dumps
some titles hold the separator.
"""

import csv
import datetime
import io
import math
import pathlib
from collections.abc import Iterator, Sequence

from bigrec_jax import errors
from bigrec_jax.config import DataConfig
from bigrec_jax.data.formats import interactions, raw_files
from bigrec_jax.data.prepared import doctor as doctor_lib

_SEPARATORS = ",;\t|"
# In small letters, without blanks and other marks.
_USUAL = {
  "user": ("user", "userid", "reviewerid", "customerid"),
  "item": (
    "item",
    "itemid",
    "isbn",
    "asin",
    "parentasin",
    "movieid",
    "bookid",
    "productid",
    "id",
  ),
  "time": ("time", "timestamp", "unixreviewtime", "date"),
  "rating": ("rating", "bookrating", "overall", "stars", "score"),
  "title": ("title", "booktitle", "itemtitle", "name"),
}


def files(data: DataConfig) -> dict[str, pathlib.Path]:
  """Returns the raw files by role: `interactions` and `items`.

  Raises:
    UserError: a file is missing.
  """
  return {
    role: raw_files.given(f"data.{role}", getattr(data, role))
    for role in ("interactions", "items")
  }


def read(
  data: DataConfig, doctor: doctor_lib.Doctor
) -> interactions.Interactions:
  """Reads the interactions with items that have a title.

  Raises:
    UserError: a file or column is missing, or a value is malformed.
  """
  found = files(data)
  titles = _read_titles(found["items"], data, doctor)
  path = found["interactions"]
  table = _Table(path, data, doctor)
  user, item = table.column("user"), table.column("item")
  time, rating = table.find("time"), table.find("rating")
  if time is None:
    doctor.note(f"{path.name} has no times: the order of its rows counts")
  log = interactions.Log()
  for number, row in table:
    seconds = number if time is None else _seconds(path, number, row[time])
    stars = math.nan if rating is None else _stars(path, number, row[rating])
    log.add(row[user], row[item], seconds, stars)
  rule = f"items that {found['items'].name} lacks"
  return log.finish(str(path), titles, rule, doctor)


def _read_titles(
  path: pathlib.Path, data: DataConfig, doctor: doctor_lib.Doctor
) -> dict[str, str]:
  """Returns titles by id; of an id's several rows the last counts."""
  table = _Table(path, data, doctor)
  item, title = table.column("item"), table.column("title")
  author = table.column("author") if data.columns.author else None
  titles: dict[str, str] = {}
  empty = []
  for _, row in table:
    text = row[title]
    if not text.strip():
      empty.append(row[item])
      continue
    titles[row[item]] = (
      text if author is None else f"{text} written by {row[author]}"
    )
  doctor.removed(
    "items without a title",
    "items",
    len(titles) + len(empty),
    len(titles),
    empty,
  )
  if not titles:
    raise errors.UserError(f"{path}: no titles found, one a row expected")
  return titles


class _Table:
  """A file with a header; iterating gives (line number, fields)."""

  def __init__(
    self, path: pathlib.Path, data: DataConfig, doctor: doctor_lib.Doctor
  ):
    self._path, self._columns, self._doctor = path, data.columns, doctor
    text = _decoded(path, data.encoding, doctor)
    first = text.partition("\n")[0]
    self._separator = max(_SEPARATORS, key=first.count)
    self._text = text
    self._header = next(self._rows(), (0, []))[1]

  def _rows(self) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(
      io.StringIO(self._text, newline=""), delimiter=self._separator
    )
    try:
      for fields in reader:
        if fields:
          yield reader.line_num, fields
    except csv.Error as error:
      raise errors.UserError(
        f"{self._path}: line {reader.line_num}: {error} found, rows of fields"
        " with quotes in pairs expected"
      ) from None

  def find(self, role: str) -> int | None:
    """Returns the place of a column; None where none has a usual name.

    Raises:
      UserError: the configuration names one that isn't there.
    """
    if getattr(self._columns, role):
      return self.column(role)
    known = [_plain(name) for name in self._header]
    return next((known.index(n) for n in _USUAL[role] if n in known), None)

  def column(self, role: str) -> int:
    """Returns the place of a column.

    Raises:
      UserError: it isn't there.
    """
    named = getattr(self._columns, role)
    place = None
    if not named:
      place = self.find(role)
    elif named in (known := [name.strip() for name in self._header]):
      place = known.index(named)
    if place is None:
      raise errors.UserError(
        f"{self._path}: line 1: columns {', '.join(self._header)} found,"
        f" {named or ' or '.join(_USUAL[role])} expected"
        f" (config.data.columns.{role})"
      )
    return place

  def __iter__(self) -> Iterator[tuple[int, Sequence[str]]]:
    width, bad, total = len(self._header), [], 0
    for number, fields in self._rows():
      if number == 1:
        continue
      total += 1
      if len(fields) != width:
        bad.append(f"line {number}")
        continue
      yield number, fields
    self._doctor.removed(
      f"rows of {self._path.name} without {width} fields",
      "rows",
      total,
      total - len(bad),
      bad,
    )


def _decoded(
  path: pathlib.Path, encoding: str, doctor: doctor_lib.Doctor
) -> str:
  raw = raw_files.content(path)
  if encoding != "auto":
    try:
      return raw.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError:
      raise errors.UserError(
        f"{path}: not {encoding}; config.data.encoding must be auto or"
        " iso-8859-1"
      ) from None
  try:
    return raw.decode("utf-8-sig")
  except UnicodeDecodeError:
    doctor.note(f"{path.name} was read as ISO-8859-1")
    return raw.decode("iso-8859-1")


def _plain(name: str) -> str:
  return "".join(c for c in name.lower() if c.isalnum())


def _seconds(path: pathlib.Path, number: int, text: str) -> int:
  try:
    return int(float(text))
  except ValueError:
    pass
  try:
    moment = datetime.datetime.fromisoformat(text.strip())
  except ValueError:
    raise errors.UserError(
      f"{path}: line {number}: time {text!r} found, seconds or a date such as"
      " 2024-05-31 expected"
    ) from None
  if moment.tzinfo is None:
    moment = moment.replace(tzinfo=datetime.UTC)
  return int(moment.timestamp())


def _stars(path: pathlib.Path, number: int, text: str) -> float:
  """Returns a rating; NaN where the field is empty."""
  if not text.strip():
    return math.nan
  try:
    return float(text)
  except ValueError:
    raise errors.UserError(
      f"{path}: line {number}: rating {text!r} found, a number expected"
    ) from None
