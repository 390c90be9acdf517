"""Items to be added to a catalogue: read from a table, and compared.

A table is what `data.items` may be (formats/tables.py): CSV with any separator,
JSON objects a line, Parquet; columns of ids and titles are found by the usual
names, `external_id` among them, or named (`data.columns`).
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from bigrec_jax import errors
from bigrec_jax.config import ColumnsConfig
from bigrec_jax.data.formats import (
  columns,
  encodings,
  mistakes,
  raw_files,
  tables,
  values,
)
from bigrec_jax.data.prepared import doctor as doctor_lib
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.data.text import prompts

_ID, _TITLE = "external_id", "title"  # Of a JSON object.


class NewItem(NamedTuple):
  """An item as given.

  Attributes:
    external_id: the user's own id of it.
    title: as given.
    place: of it, for messages.
  """

  external_id: str
  title: str
  place: str


class Compared(NamedTuple):
  """New items beside a catalogue.

  Attributes:
    new: those that it lacks.
    known: ids that it has with the same title.
  """

  new: list[NewItem]
  known: list[str]


def read(path: pathlib.Path, named: ColumnsConfig) -> list[NewItem]:
  """Returns the items of a file, plain or .gz.

  Args:
    path: of it.
    named: what the configuration says of columns; "" = find it.

  Raises:
    UserError: it is no such file, or a row has no id or no title.
  """
  table = tables.peek(path)
  known = [columns.plain(name) for name in table.columns]
  own = columns.plain(_ID)
  if not named.item and own in known:
    name = table.columns[known.index(own)]
    named = dataclasses.replace(named, item=name)
  layout = columns.find("items", table, named)
  roles = [r for r in ("item", "title", "author") if r in layout.places]
  places = [layout.places[role] for role in roles]

  def use(rows: Iterator[tables.Row]) -> list[NewItem]:
    found = []
    for number, (external_id, title, *author) in rows:
      text = title if isinstance(title, str) else columns.id_of(title)
      if author and prompts.clean_title(text):
        text = f"{text} written by {columns.id_of(author[0])}"
      unit = f"{layout.table.unit} {number}"
      row = {_ID: columns.id_of(external_id), _TITLE: text}
      try:
        found.append(of_object(row, f"{path}: {unit}"))
      except errors.UserError as error:
        where, _, problem = str(error).removeprefix(f"{path}: ").partition(": ")
        wrong.add("rows", where, problem)
    return found

  doctor = doctor_lib.Aloud(path)
  keys = [layout.places["item"]]
  with mistakes.of(path) as wrong:
    about = places, keys, encodings.AUTO, doctor, wrong
    found = tables.read(layout.table, *about, use)
  if not found:
    raise errors.UserError(f"{path}: no item found, an id and a title expected")
  return found


def of_object(row: Mapping[str, Any], place: str) -> NewItem:
  """Returns the item of an object.

  Raises:
    UserError: it has no id or no title, or one that is no text.
  """
  for key in (_ID, _TITLE):
    if key not in row:
      found = values.listed(list(map(repr, row))) or "nothing"
      raise errors.UserError(f"{place}: {found} found, {key} expected")
  external_id, title = row[_ID], row[_TITLE]
  if isinstance(external_id, int) and not isinstance(external_id, bool):
    external_id = str(external_id)
  for key, value in ((_ID, external_id), (_TITLE, title)):
    if not isinstance(value, str) or not prompts.clean_title(value):
      raise errors.UserError(
        f"{place}.{key}: {values.shown(value)} found, a text that isn't empty"
        " expected"
      )
  return NewItem(
    raw_files.repaired(external_id), raw_files.repaired(title), place
  )


def compare(items: Iterable[NewItem], catalogue: Catalogue) -> Compared:
  """Says which items a catalogue lacks.

  Raises:
    UserError: an id is there with another title, or given twice with two.
  """
  new: dict[str, NewItem] = {}
  known = []
  for item in items:
    row = catalogue.index_of_external_id(item.external_id)
    before = None if row is None else catalogue.titles[row]
    if item.external_id in new:
      before = new[item.external_id].title
    if before is not None and before != item.title:
      raise errors.UserError(
        f"{item.place}.title: {values.shown(item.title)} found, but"
        f" {item.external_id} is {values.shown(before)}; that title, or another"
        " id, expected"
      )
    if row is not None:
      known.append(item.external_id)
    elif before is None:
      new[item.external_id] = item
  return Compared(list(new.values()), known)
