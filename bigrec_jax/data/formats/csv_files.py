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

import datetime
import itertools
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from bigrec_jax import errors
from bigrec_jax.config import DataConfig
from bigrec_jax.data.formats import csv_rows, interactions, raw_files, values
from bigrec_jax.data.prepared import doctor as doctor_lib

T = TypeVar("T")

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
  titles = _decoded(found["items"], data, doctor, _titles)
  path = found["interactions"]
  log = _decoded(path, data, doctor, _log)
  rule = f"items that {found['items'].name} lacks"
  return log.finish(str(path), titles, rule, doctor)


def _decoded(
  path: pathlib.Path,
  data: DataConfig,
  doctor: doctor_lib.Doctor,
  read: Callable[["_Table", doctor_lib.Doctor], T],
) -> T:
  """Returns what `read` makes of a file in its encoding."""
  return raw_files.decoded(
    path,
    data.encoding,
    doctor,
    lambda lines: read(_Table(path, data, lines), doctor),
    newline="",
  )


def _log(table: "_Table", doctor: doctor_lib.Doctor) -> interactions.Log:
  """Returns all interactions of a table."""
  path = table.path
  user, item = table.column("user"), table.column("item")
  time, rating = table.find("time"), table.find("rating")
  table.has_keys(user, item, time, rating)
  log = interactions.Log()
  for number, row in table:
    seconds = number if time is None else _seconds(path, number, row[time])
    stars = math.nan if rating is None else _stars(path, number, row[rating])
    log.add(row[user], row[item], seconds, stars)
  table.report(doctor)
  if time is None:
    doctor.note(f"{path.name} has no times: the order of its rows counts")
  return log


def _titles(table: "_Table", doctor: doctor_lib.Doctor) -> dict[str, str]:
  """Returns titles by id; of an id's several rows the last counts."""
  item, title = table.column("item"), table.column("title")
  author = table.column("author") if table.has_author else None
  table.has_keys(item)
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
  table.report(doctor)
  doctor.removed(
    "items without a title",
    "items",
    len(titles) + len(empty),
    len(titles),
    empty,
  )
  if not titles:
    raise errors.UserError(f"{table.path}: no titles found, one a row expected")
  return titles


class _Table:
  """A file with a header; iterating gives (line number, fields).

  Attributes:
    path: of the file.
    has_author: whether the configuration names a column of authors.
  """

  def __init__(
    self, path: pathlib.Path, data: DataConfig, lines: Iterable[str]
  ):
    self.path, self._columns = path, data.columns
    self.has_author = bool(data.columns.author)
    lines = iter(lines)
    first = next(lines, "")
    self._separator = max(_SEPARATORS, key=first.count)
    self._rows = csv_rows.Rows(
      path, itertools.chain([first], lines), self._separator
    )
    self._reader = iter(self._rows)
    self._header = next(self._reader, (0, []))[1]
    self._bad: list[str] = []
    self._total = 0

  def has_keys(self, *columns: int | None) -> None:
    """Says which columns hold no line breaks."""
    self._rows.keys = [column for column in columns if column is not None]

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
        f"{self.path}: line 1: columns {values.listed(self._header)} found,"
        f" {named or ' or '.join(_USUAL[role])} expected"
        f" (config.data.columns.{role})"
      )
    return place

  def __iter__(self) -> Iterator[tuple[int, Sequence[str]]]:
    width = len(self._header)
    for number, row in self._reader:
      self._total += 1
      if len(row) != width:
        self._bad.append(f"line {number}")
        continue
      yield number, row

  def report(self, doctor: doctor_lib.Doctor) -> None:
    """Tells which rows were left out."""
    doctor.removed(
      f"rows of {self.path.name} without {len(self._header)} fields",
      "rows",
      self._total,
      self._total - len(self._bad),
      self._bad,
    )


def _plain(name: str) -> str:
  return "".join(c for c in name.lower() if c.isalnum())


def _seconds(path: pathlib.Path, number: int, text: str) -> int:
  found = values.seconds(text)
  if found is None:
    found = _fractional(text)
  if found is None:
    found = _moment(text)
  if found is None:
    raise errors.UserError(
      f"{path}: line {number}: time {values.shown(text)} found, seconds or a"
      " date such as 2024-05-31 expected"
    )
  return found


def _fractional(text: str) -> int | None:
  """Returns the whole seconds of e.g. 1.5e9, exactly as far as it can be."""
  try:
    return values.seconds(float(text)) if "_" not in text else None
  except ValueError:
    return None


def _moment(text: str) -> int | None:
  """Returns the seconds of a date, in UTC where it names no zone."""
  try:
    moment = datetime.datetime.fromisoformat(text.strip())
    if moment.tzinfo is None:
      moment = moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp())
  except (ValueError, OverflowError):
    return None


def _stars(path: pathlib.Path, number: int, text: str) -> float:
  """Returns a rating; NaN where the field is empty."""
  if not text.strip():
    return math.nan
  found = values.rating(text)
  if math.isnan(found):
    raise errors.UserError(
      f"{path}: line {number}: rating {values.shown(text)} found, a number"
      " expected"
    )
  return found
