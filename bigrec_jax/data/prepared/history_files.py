"""Histories as tables, and files of ids: what people have at hand.

A table (CSV with any separator, or Parquet) has a row a user, with a column
`history`, or a row an interaction, as `data.interactions` has them.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from bigrec_jax import errors
from bigrec_jax.config import ColumnsConfig
from bigrec_jax.data.formats import (
  columns,
  encodings,
  interactions,
  mistakes,
  moments,
  tables,
  values,
)
from bigrec_jax.data.prepared import doctor as doctor_lib, histories

_TABLES = (".csv", ".tsv", ".txt", ".dat", ".data", ".parquet", ".pq")
_BETWEEN = "|"  # Of a history in a field of CSV, where it is no JSON list.
_STOCK = (
  "instock",
  "stock",
  "available",
  "availability",
  "quantity",
  "inventory",
)
_OUT = ("", "0", "0.0", "false", "no", "n", "out of stock", "none")


def read(path: pathlib.Path, named: ColumnsConfig) -> Iterator[histories.Row]:
  """Yields the histories of a file: JSON lines, or a table.

  Args:
    path: of it.
    named: names of columns where they aren't the usual ones.

  Raises:
    UserError: a row is malformed, or there is none.
  """
  if not _is_of(path, _TABLES):
    yield from histories.read(path)
    return
  table = tables.peek(path)
  names = [columns.plain(name) for name in table.columns]
  if histories.KEY in names:
    yield from _wide(table, names.index(histories.KEY))
  else:
    yield from _long(table, named)


class Ids(NamedTuple):
  """What a file of ids holds.

  Attributes:
    ids: external ids, each with its place in the file.
    out: how many are out of stock, and so left out.
  """

  ids: dict[str, str]
  out: int


def read_ids(path: pathlib.Path, role: str) -> Ids:
  """Returns the external ids of a file.

  An id a line; or a table whose column has a usual name. One that says what is
  in stock (in_stock, available, quantity) leaves out what isn't.

  Args:
    path: of it.
    role: user or item.

  Raises:
    UserError: there is no id, or no such column.
  """
  table = tables.peek(path)
  known = [columns.plain(name) for name in table.columns]
  usual = [known.index(name) for name in columns.USUAL[role] if name in known]
  if len(table.columns) == 1 and not usual:
    table = table.without_header()
    usual = [0]
  if not usual:
    raise errors.UserError(
      f"{path}: columns {values.listed(list(table.columns))} found, one of"
      f" {', '.join(columns.USUAL[role])} expected"
    )
  stock = [n for n, name in enumerate(known) if name in _STOCK]

  def use(rows: Iterator[tables.Row]) -> tuple[dict[str, str], int]:
    ids: dict[str, str] = {}
    left_out = 0
    for number, (value, *there) in rows:
      text = columns.id_of(value).strip()
      if there and str(there[0]).strip().lower() in _OUT:
        left_out += 1
      elif text:
        ids.setdefault(text, f"{path}: {table.unit} {number}")
    return ids, left_out

  places = [usual[0], *stock[:1]]
  doctor = doctor_lib.Aloud(path)
  with mistakes.of(path) as wrong:
    about = places, places, encodings.AUTO, doctor, wrong
    found, out = tables.read(table, *about, use)
  if not found:
    raise errors.UserError(f"{path}: no id found, one a line expected")
  return Ids(found, out)


def _is_of(path: pathlib.Path, endings: tuple[str, ...]) -> bool:
  return path.name.removesuffix(".gz").lower().endswith(endings)


def _wide(table: tables.Peek, place: int) -> Iterator[histories.Row]:
  """Yields the rows of a table with a column of histories."""
  places = list(range(len(table.columns)))

  def use(rows: Iterator[tables.Row]) -> list[histories.Row]:
    found = []
    for number, row in rows:
      where = f"{table.path}: {table.unit} {number}"
      content = {
        name: _plain(value)
        for n, (name, value) in enumerate(zip(table.columns, row, strict=True))
        if n != place
      }
      content[histories.KEY] = _items(row[place])
      try:
        found.append(histories.checked(where, content))
      except errors.UserError as error:
        problem = str(error).removeprefix(f"{where}: ")
        wrong.add("rows", f"{table.unit} {number}", problem)
    return found

  doctor = doctor_lib.Aloud(table.path)
  with mistakes.of(table.path) as wrong:
    found = tables.read(table, places, [], encodings.AUTO, doctor, wrong, use)
  if not found:
    raise errors.UserError(f"{table.path}: no row found, a history expected")
  yield from found


def _items(value: Any) -> Any:
  """Returns the items of a field: a list as it is, or as text has it."""
  if isinstance(value, (list, tuple, np.ndarray)):
    return [_plain(item) for item in value]
  if value is None:
    return []
  text = str(value).strip()
  if text.startswith("["):
    try:
      return json.loads(text)
    except ValueError:
      pass  # A title may begin with a bracket.
  return [part.strip() for part in text.split(_BETWEEN) if part.strip()]


def _plain(value: Any) -> Any:
  """Returns a value as JSON has it."""
  if isinstance(value, float) and not math.isfinite(value):
    return None
  if value is None or isinstance(value, (str, int, float, bool)):
    return value
  return str(value)


def _long(table: tables.Peek, named: ColumnsConfig) -> Iterator[histories.Row]:
  """Yields a history for each user of a table of interactions.

  Users come in the order of their first row, items by time where there is one.
  """
  layout = _layout(table, named)
  table, roles = layout.table, list(layout.places)
  user, item = roles.index("user"), roles.index("item")
  time = roles.index("time") if "time" in roles else None

  def use(rows: Iterator[tables.Row]) -> tuple[interactions.Log, moments.Clock]:
    log, clock = interactions.Log(), moments.Clock()
    for number, row in rows:
      who, what = (columns.id_of(row[place]) for place in (user, item))
      given = number if time is None else row[time]
      when = given if time is None else clock.read(given)
      if not who or not what:
        problem = "no user or no item found, both expected"
        wrong.add("rows", f"{table.unit} {number}", problem)
      elif when is None:
        problem = f"time {values.shown(given)} found, a time expected"
        wrong.add("times", f"{table.unit} {number}", problem)
      else:
        log.add(who, what, when)
    return log, clock

  places = [layout.places[role] for role in roles]
  doctor = doctor_lib.Aloud(table.path)
  with mistakes.of(table.path) as wrong:
    about = places, places, encodings.AUTO, doctor, wrong
    log, clock = tables.read(table, *about, use)
  if time is not None:
    log.refine(clock.whole)
  for name, items in log.by_user():
    where = f"{table.path}: user {values.shown(name)}"
    yield histories.checked(where, {"user": name, histories.KEY: items})


def _layout(table: tables.Peek, named: ColumnsConfig) -> columns.Layout:
  """Returns which column is what; titles do where there are no ids.

  Names that the configuration has for the data count where they are there.
  """
  there = {
    role: name if name in table.columns else ""
    for role, name in dataclasses.asdict(named).items()
  }
  named = dataclasses.replace(named, **there)
  try:
    return columns.find("interactions", table, named)
  except errors.UserError:
    known = [columns.plain(name) for name in table.columns]
    titles = [n for n in columns.USUAL["title"] if n in known]
    if named.item or not titles:
      raise
    title = table.columns[known.index(titles[0])]
    by_title = dataclasses.replace(named, item=title)
    return columns.find("interactions", table, by_title)
