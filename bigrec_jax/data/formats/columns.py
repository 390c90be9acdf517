"""Which column of a table is what: named, by usual names, or by what it holds.

Names are compared in small letters, without blanks and other marks. A file
whose first line has no names is understood only where nothing else can be
meant; else the columns are named by their numbers, from 1.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigrec_jax import errors
from bigrec_jax.config import ColumnsConfig
from bigrec_jax.data.formats import moments, tables, values

# Where a file has several of them the first counts: books are told apart by
# book_id where there is an id of the row, too, Amazon's products by their
# parent.
USUAL = {
  "user": (
    "user",
    "userid",
    "uid",
    "reviewerid",
    "customerid",
    "visitorid",
    "memberid",
    "username",
  ),
  "item": (
    "item",
    "itemid",
    "isbn",
    "parentasin",
    "asin",
    "movieid",
    "bookid",
    "productid",
    "gameid",
    "appid",
    "articleid",
    "sku",
    "iid",
    "id",
  ),
  "time": (
    "time",
    "timestamp",
    "unixreviewtime",
    "datetime",
    "date",
    "dateadded",
    "createdat",
    "reviewtime",
  ),
  "rating": (
    "rating",
    "bookrating",
    "overall",
    "stars",
    "score",
    "isrecommended",
  ),
  "title": (
    "title",
    "booktitle",
    "movietitle",
    "itemtitle",
    "producttitle",
    "appname",
    "name",
  ),
}
_NEEDED = {"interactions": ("user", "item"), "items": ("item", "title")}
_ROLES = {
  "interactions": ("user", "item", "time", "rating"),
  "items": ("item", "title", "author"),
}
_EPOCH = 10**8  # Numbers from here on are times: 1973.


@dataclasses.dataclass(frozen=True)
class Layout:
  """Which column of a file is what.

  Attributes:
    table: the file.
    places: of each role that the file has.
    others: places of the other columns, by their names.
  """

  table: tables.Peek
  places: Mapping[str, int]
  others: Mapping[str, int]

  @property
  def told(self) -> str:
    """What was understood, for people."""
    named = ", ".join(
      f"{role} = {self.table.columns[place]}"
      for role, place in self.places.items()
    )
    return f"{self.table.path.name} ({self.table.told}): {named}"


def find(
  kind: str,
  table: tables.Peek,
  named: ColumnsConfig,
  preferred: Sequence[str] = (),
) -> Layout:
  """Returns the layout of a file.

  Args:
    kind: interactions or items.
    table: the file.
    named: what the configuration says; "" = find it.
    preferred: names of the column of items that go before others: those of
      the other file.

  Raises:
    UserError: a column that is needed isn't found, or one that is named.
  """
  given = {
    role: name for role in _ROLES[kind] if (name := getattr(named, role))
  }
  by_name = _by_name(kind, table, given, preferred)
  if table.kind == "csv" and not _is_header(kind, table, by_name, given):
    table = table.without_header()
    by_name = _by_number(table, given) or _by_content(kind, table)
  missing = [
    role
    for role in (*_NEEDED[kind], *given)
    if role not in by_name and role in _ROLES[kind]
  ]
  if missing:
    raise _missing(table, missing[0], given)
  taken = set(by_name.values())
  others = {
    name: place
    for place, name in enumerate(table.columns)
    if place not in taken and name and table.has_header
  }
  return Layout(table, by_name, others)


def plain(name: str) -> str:
  """Returns a name in small letters, without marks."""
  return "".join(c for c in name.lower() if c.isalnum())


def id_of(value: Any) -> str:
  """Returns an id as text, without blanks at its ends; "" where there is none.

  Files with a blank behind each separator have one before each id.
  """
  if isinstance(value, str):
    return value.strip()
  if value is None or isinstance(value, bool):
    return ""
  if isinstance(value, (float, np.floating)):
    # A column of numbers with gaps in Parquet.
    if not math.isfinite(value):
      return ""
    return str(int(value)) if value == int(value) else str(value)
  return str(value)


def _by_name(
  kind: str,
  table: tables.Peek,
  given: Mapping[str, str],
  preferred: Sequence[str],
) -> dict[str, int]:
  """Returns the places that names tell."""
  known = [plain(name) for name in table.columns]
  found: dict[str, int] = {}
  for role in _ROLES[kind]:
    if role in given:
      if given[role] in table.columns:
        found[role] = table.columns.index(given[role])
      continue
    wanted = USUAL.get(role, ())
    if role == "item":
      first = [name for name in wanted if name in preferred]
      wanted = (*first, *(name for name in wanted if name not in first))
    places = [known.index(name) for name in wanted if name in known]
    places = [place for place in places if place not in found.values()]
    # Of Steam's users few have an id, all a name.
    filled = [place for place in places if _is_filled(table, place)]
    if places:
      found[role] = (filled or places)[0]
  return found


def _is_filled(table: tables.Peek, place: int) -> bool:
  """Returns whether at least half of the first rows have a value there."""
  values_there = [row[place] for row in table.sample if place < len(row)]
  empty = sum(value is None or value == "" for value in values_there)
  return 2 * empty <= len(values_there)


def _is_header(
  kind: str,
  table: tables.Peek,
  by_name: Mapping[str, int],
  given: Mapping[str, str],
) -> bool:
  """Returns whether the first line of a CSV file has names."""
  if any(role in by_name for role in given):
    return True
  if all(role in by_name for role in _NEEDED[kind]):
    return True
  if given and all(name.isdecimal() for name in given.values()):
    return False
  first, *rest = table.sample
  numbers = [_is_number(value) for value in first]
  if not any(numbers):
    return True
  # A number above numbers is one of them.
  return not any(
    number and all(_is_number(r[n]) for r in rest if len(r) == len(first))
    for n, number in enumerate(numbers)
  )


def _by_number(table: tables.Peek, given: Mapping[str, str]) -> dict[str, int]:
  """Returns the places that numbers from 1 name."""
  found = {}
  for role, name in given.items():
    if name.isdecimal() and 1 <= int(name) <= len(table.columns):
      found[role] = int(name) - 1
  return found


def _by_content(kind: str, table: tables.Peek) -> dict[str, int]:
  """Returns the places that only one reading of the values allows."""
  width = len(table.columns)
  columns = list(
    zip(*(r for r in table.sample if len(r) == width), strict=True)
  )
  numeric = [all(map(_is_number, column)) for column in columns]
  if kind == "items":
    if width == 2 and numeric[1] and not numeric[0]:
      return {"title": 0, "item": 1}  # title<TAB>id
    if width >= 2 and not numeric[1]:
      return {"item": 0, "title": 1}
    return {}
  times = [
    n
    for n, column in enumerate(columns)
    if n > 1 and all(map(_is_time, column))
  ]
  rest = [n for n in range(2, width) if n not in times]
  if width > 4 or len(times) > 1 or len(rest) > 1:
    return {}
  if any(not numeric[n] for n in rest):
    return {}
  found = {"user": 0, "item": 1}
  for role, places in (("rating", rest), ("time", times)):
    if places:
      found[role] = places[0]
  return found


def _is_number(value: Any) -> bool:
  text = str(value).strip()
  return text.replace(".", "", 1).removeprefix("-").isdecimal()


def _is_time(value: Any) -> bool:
  found = moments.parse(value)
  return found is not None and (found[2] or found[0] >= _EPOCH)


def _missing(
  table: tables.Peek, role: str, given: Mapping[str, str]
) -> errors.UserError:
  place = f"{table.path}: line 1" if table.kind == "csv" else str(table.path)
  wanted = given.get(role) or " or ".join(USUAL[role])
  hint = ""
  if table.kind == "csv":
    shown = table.sample[0]
    hint = f"; a file without header: config.data.columns.{role}=<number>"
  else:
    shown = table.columns
  listed = values.listed([str(value) for value in shown])
  return errors.UserError(
    f"{place}: columns {listed} found, {wanted} expected"
    f" (config.data.columns.{role}{hint})"
  )
