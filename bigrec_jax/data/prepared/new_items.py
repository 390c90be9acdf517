"""Items to be added to a catalogue: read from JSONL or CSV, and compared.

A JSONL file has an object a line, a CSV file a header; both name each item's
id and title, by `external_id` and `title` or by the usual names of a CSV's
columns (`item_id`, `movieId`, `parent_asin`, `name`, ...).
"""

import itertools
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from bigrec_jax import errors
from bigrec_jax.data.formats import csv_rows, opened, raw_files, values
from bigrec_jax.data.prepared import doctor as doctor_lib
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.data.text import prompts

_IDS = tuple(
  "external_id item_id item id parent_asin asin movieId movie_id book_id".split()
)
_TITLES = ("title", "name", "item_name", "title_name")
_SEPARATORS = ",;\t|"


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


def read(path: pathlib.Path) -> Iterator[NewItem]:
  """Yields the items of a file, plain or .gz.

  Raises:
    UserError: it is no such file, or a row has no id or no title.
  """
  name = path.name.removesuffix(".gz")
  rows = _json if name.endswith((".jsonl", ".json")) else _csv
  empty = True
  for place, row in rows(path):
    empty = False
    yield of_object(row, place)
  if empty:
    raise errors.UserError(f"{path}: no item found, an id and a title expected")


def of_object(row: Mapping[str, Any], place: str) -> NewItem:
  """Returns the item of an object.

  Raises:
    UserError: it has no id or no title, or one that is no text.
  """
  external_id = _named(row, _IDS, place)
  title = _named(row, _TITLES, place)
  if isinstance(external_id, int) and not isinstance(external_id, bool):
    external_id = str(external_id)
  for key, value in (("external_id", external_id), ("title", title)):
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


def _named(row: Mapping[str, Any], names: tuple[str, ...], place: str) -> Any:
  for name in names:
    if name in row:
      return row[name]
  found = values.listed(list(map(repr, row))) or "nothing"
  raise errors.UserError(
    f"{place}: {found} found, {names[0]} expected (or {', '.join(names[1:4])})"
  )


def _json(path: pathlib.Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
  doctor = doctor_lib.Doctor("items")
  for number, row in raw_files.json_lines(path, doctor):
    yield f"{path}: line {number}", row


def _csv(path: pathlib.Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
  with opened.text(opened.Place(path, "line")) as file:
    lines = iter(file)
    first = next(lines, "")
    separator = max(_SEPARATORS, key=first.count)
    table = csv_rows.Rows(path, itertools.chain([first], lines), separator)
    rows = iter(table)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    for number, row in rows:
      place = f"{path}: line {number}"
      if len(row) != len(header):
        raise errors.UserError(
          f"{place}: {len(row)} fields found, {len(header)} expected"
        )
      yield place, dict(zip(header, row, strict=True))
