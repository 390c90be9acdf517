"""Format `csv`: a table of interactions and one of items.

`data.interactions` has a column of users and one of items, maybe times and
ratings; `data.items` has the items' ids and titles, and whatever else it says
of them (attributes). Both are CSV with any separator, JSON objects a line or
Parquet (tables.py); which column is what is found or named (columns.py).

Without times the order of the file is the order in time. Rows with another
number of fields than the header are left out and counted: in published dumps
some titles hold the separator.
"""

import dataclasses
import functools
import json
import math
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from bigrec_jax import errors
from bigrec_jax.config import ColumnsConfig, DataConfig
from bigrec_jax.data.formats import (
  columns,
  interactions,
  mistakes,
  moments,
  raw_files,
  tables,
  values,
)
from bigrec_jax.data.prepared import doctor as doctor_lib

_LONGEST_ATTRIBUTE = 2000  # Characters: no lists of reviews or pictures.
# 4,5 as German and French programs write it; 4,500 may be thousands.
_COMMA = re.compile(r"[+-]?\d+,\d{1,2}")
_TRUTH = {"true": 1.0, "false": 0.0}


def files(data: DataConfig) -> dict[str, pathlib.Path]:
  """Returns the raw files by role: `interactions` and `items`.

  Raises:
    UserError: a file is missing.
  """
  return raw_files.given_all(
    {
      role: (f"data.{role}", getattr(data, role))
      for role in ("interactions", "items")
    }
  )


def read(
  data: DataConfig, doctor: doctor_lib.Doctor
) -> interactions.Interactions:
  """Reads the interactions with items that have a title.

  Raises:
    UserError: a file or column is missing, or values are malformed: one line
      names all of them, or the first of each kind and how many more.
  """
  paths = files(data)
  peeks = mistakes.gather(
    *(
      functools.partial(tables.peek, path, data.encoding)
      for path in paths.values()
    )
  )
  found: dict[str, tables.Peek] = dict(zip(paths, peeks, strict=True))
  named = data.columns
  names = {
    role: {columns.plain(name) for name in own.columns}
    for role, own in found.items()
  }
  both = [
    n for n in columns.USUAL["item"] if all(n in x for x in names.values())
  ]
  layouts = mistakes.gather(
    *(
      functools.partial(columns.find, role, own, _own(named, role, found), both)
      for role, own in found.items()
    )
  )
  layout_of: dict[str, columns.Layout] = dict(zip(found, layouts, strict=True))
  (titles, attributes), log = mistakes.gather(
    lambda: _titles(layout_of["items"], data, doctor),
    lambda: _log(layout_of["interactions"], data, doctor),
  )
  items = found["items"].path
  if not titles:
    raise errors.UserError(f"{items}: no titles found, one a row expected")
  return log.finish(
    str(found["interactions"].path),
    titles,
    f"items that {items.name} lacks",
    doctor,
    attributes=attributes,
    keep=f"add these items to {items.name}",
  )


def _own(
  named: ColumnsConfig, role: str, found: Mapping[str, tables.Peek]
) -> ColumnsConfig:
  """Returns the names that count for a file.

  Both have a column of items, and `data.columns.item` may be the name of one.
  """
  here = named.item in found[role].columns
  if here or not any(named.item in own.columns for own in found.values()):
    return named
  return dataclasses.replace(named, item="")


def _log(
  layout: columns.Layout,
  data: DataConfig,
  doctor: doctor_lib.Doctor,
) -> interactions.Log:
  """Returns all interactions of a table."""
  table, roles = layout.table, list(layout.places)
  place_of = {role: roles.index(role) for role in roles}
  user, item = place_of["user"], place_of["item"]
  time, rating = place_of.get("time"), place_of.get("rating")
  nobody: list[str] = []

  def use(rows: Iterator[tables.Row]) -> tuple[interactions.Log, moments.Clock]:
    log, clock = interactions.Log(), moments.Clock()
    for number, row in rows:
      who, what = columns.id_of(row[user]), columns.id_of(row[item])
      if not who or not what:
        nobody.append(f"{table.unit} {number}")
        continue
      when = None if time is None else row[time]
      given = None if rating is None else row[rating]
      seconds = number if time is None else clock.read(when)
      stars = _stars(given)
      if seconds is None:
        wrong.add(
          "times",
          f"{table.unit} {number}",
          f"time {values.shown(when)} found, seconds or a date such as"
          " 2024-05-31 expected",
        )
      if stars is None:
        wrong.add(
          "ratings",
          f"{table.unit} {number}",
          f"rating {values.shown(given)} found, a number expected",
        )
      if seconds is None or stars is None:
        continue
      log.add(who, what, seconds, stars)
    return log, clock

  places = [layout.places[role] for role in roles]
  with mistakes.of(table.path) as wrong:
    about = places, places, data.encoding, doctor, wrong
    log, clock = tables.read(table, *about, use)
  total = len(log) + len(nobody)
  doctor.removed(
    f"rows of {table.path.name} without a user or an item",
    "rows",
    total,
    len(log),
    nobody,
    keep="give them both",
  )
  told = f"{layout.told} ({clock})" if time is not None else layout.told
  doctor.understood(told)
  if time is None:
    doctor.note(f"{table.path.name} has no times: the order of its rows counts")
  else:
    log.refine(clock.whole)
  return log


def _titles(
  layout: columns.Layout,
  data: DataConfig,
  doctor: doctor_lib.Doctor,
) -> tuple[dict[str, str], dict[str, str]]:
  """Returns titles and attributes by id; of an id's rows the last counts."""
  table, others = layout.table, layout.others
  roles = list(layout.places)
  item, title = roles.index("item"), roles.index("title")
  author = roles.index("author") if "author" in roles else None
  names = list(others)
  empty: list[str] = []
  again = [0]

  def use(rows: Iterator[tables.Row]) -> tuple[dict[str, str], dict[str, str]]:
    titles: dict[str, str] = {}
    attributes: dict[str, str] = {}
    for number, row in rows:
      key, text = columns.id_of(row[item]), row[title]
      if not key:
        wrong.add("ids", f"{table.unit} {number}", "no id found, one expected")
        continue
      text = "" if text is None else str(text)
      if not text.strip():
        empty.append(key)
        continue
      again[0] += key in titles
      if author is not None:
        text = f"{text} written by {row[author]}"
      titles[key] = text
      if names:
        attributes[key] = _attributes(names, row[len(roles) :])
    return titles, attributes

  places = [*layout.places.values(), *others.values()]
  keys = [layout.places["item"]]
  with mistakes.of(table.path) as wrong:
    about = places, keys, data.encoding, doctor, wrong
    titles, attributes = tables.read(table, *about, use)
  doctor.removed(
    "items without a title",
    "items",
    len(titles) + len(empty),
    len(titles),
    empty,
    keep=f"give them one in {table.path.name}",
  )
  doctor.found(
    "rows of items whose id was there before (the last counts)", again[0]
  )
  kept = f"; attributes: {values.listed(names)}" if names else ""
  doctor.understood(f"{layout.told}{kept}")
  return titles, attributes


def _stars(value: Any) -> float | None:
  """Returns a rating; NaN where there is none, None for what can't be one."""
  if value is None or (isinstance(value, str) and not value.strip()):
    return math.nan
  if isinstance(value, float) and math.isnan(value):
    return math.nan
  if isinstance(value, bool):
    return float(value)
  if isinstance(value, str) and value.strip().lower() in _TRUTH:
    return _TRUTH[value.strip().lower()]
  if isinstance(value, str) and _COMMA.fullmatch(value.strip()):
    value = value.replace(",", ".")
  found = values.rating(value)
  return None if math.isnan(found) else found


def _attributes(names: list[str], row: Any) -> str:
  """Returns an item's other columns as a JSON object, without empty ones."""
  own: Mapping[str, Any] = {
    name: value
    for name, value in zip(names, row, strict=True)
    if value not in (None, "", [], {})
  }
  try:
    text = json.dumps(own, ensure_ascii=False, allow_nan=False)
    if len(text) <= _LONGEST_ATTRIBUTE:
      return text
  except (TypeError, ValueError):
    pass
  return json.dumps(
    {
      name: kept for name, value in own.items() if (kept := _short(value)) != ""
    },
    ensure_ascii=False,
  )


def _short(value: Any) -> Any:
  """Returns a value as JSON has it; "" for one that is long or none."""
  try:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
  except (TypeError, ValueError):
    return ""
  return json.loads(text) if len(text) <= _LONGEST_ATTRIBUTE else ""
