"""Histories to recommend for: read, and found in the catalogue.

A JSONL file has one object a line; `history` lists external ids or titles,
oldest first. Whatever else a row holds (a user id, say) comes back with its
recommendations.
"""

import dataclasses
import difflib
import heapq
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from bigrec_jax import errors
from bigrec_jax.data.formats import mistakes, raw_files, values
from bigrec_jax.data.prepared import (
  catalogue as catalogue_lib,
  doctor as doctor_lib,
)
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.workdir import fingerprints, storage

KEY = "history"
UNKNOWN = ("error", "nearest", "text", "skip")
_FLAG = "--history"
# Keys of an answer (stages/recommend.py).
ANSWER = (
  "predict",
  "scores",
  "confidence",
  "recommendations",
  "provenance",
)
# A text that isn't a title goes into a prompt up to here.
_LONGEST_TEXT = 1000
# Items of histories side by side, 64 MB of them.
_MOST_IN_A_TABLE = 1 << 24
# Of a misspelt title: pieces of which the nearest titles share some, and how
# many are compared letter by letter, which takes the square of their lengths.
_PIECE, _MOST_PIECES = 3, 24
_MOST_COMPARED, _LONGEST_COMPARED = 50, 200


class Row(NamedTuple):
  """One history as given.

  Attributes:
    place: file and line, or the flag, for messages.
    content: the object; `history` is a list of ids and titles.
    list_place: of that list, for messages.
  """

  place: str
  content: dict[str, Any]
  list_place: str


@dataclasses.dataclass(frozen=True, eq=False)
class Histories:
  """N histories, found in the catalogue.

  Attributes:
    rows: as given.
    titles: of each, what the prompt names, oldest first.
    items: of each, catalogue rows, oldest first, without what the catalogue
      lacks.
    unknown: of each, what the catalogue lacks.
    nearest: of each, the title that was taken for a text that is none.
  """

  rows: Sequence[Row]
  titles: list[list[str]]
  items: list[list[int]]
  unknown: list[list[str]]
  nearest: list[dict[str, str]]

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, part: slice) -> "Histories":
    """Returns some of them."""
    return Histories(
      self.rows[part],
      self.titles[part],
      self.items[part],
      self.unknown[part],
      self.nearest[part],
    )

  def parts(self) -> Iterator[slice]:
    """Yields neighbours whose items fit into a small table together."""
    start = width = 0
    for end, own in enumerate(self.items):
      width = max(width, len(own))
      if end > start and (end + 1 - start) * width > _MOST_IN_A_TABLE:
        yield slice(start, end)
        start, width = end, len(own)
    if start < len(self):
      yield slice(start, len(self))

  def padded(self, least: int = 0) -> np.ndarray:
    """Returns their items, [N, H] int32, padded at the right with -1.

    Args:
      least: H is at least this.
    """
    width = max([least, *map(len, self.items)])
    table = np.full((len(self), width), -1, np.int32)
    for line, own in zip(table, self.items, strict=True):
      line[: len(own)] = own
    return table


def joined(parts: Sequence[Histories]) -> Histories:
  """Returns histories behind each other."""
  return Histories(
    [row for part in parts for row in part.rows],
    [own for part in parts for own in part.titles],
    [own for part in parts for own in part.items],
    [own for part in parts for own in part.unknown],
    [own for part in parts for own in part.nearest],
  )


class Survey(NamedTuple):
  """What is known of histories that are too many to be held.

  Attributes:
    users: N.
    fingerprint: names them all.
  """

  users: int
  fingerprint: str


def survey(rows: Iterable[Row], catalogue: Catalogue, unknown: str) -> Survey:
  """Goes through histories once and keeps nothing.

  Args:
    rows: as given.
    catalogue: where to look.
    unknown: see `find`.

  Raises:
    UserError: see `find`.
  """
  count, names = 0, fingerprints.OfList()
  for row in rows:
    if unknown in ("error", "nearest"):
      find([row], catalogue, unknown)
    names.add(row.content)
    count += 1
  return Survey(count, names.name())


def read(path: pathlib.Path) -> Iterator[Row]:
  """Yields the rows of a JSONL file, plain or .gz.

  Raises:
    UserError: a line is no object with a list of ids and titles, or there is
      no line.
  """
  empty, doctor = True, doctor_lib.Aloud(path)
  # At the first mistake, not at the end: lists of the rows before are written.
  for number, row in raw_files.json_lines(path, doctor, mistakes.Strict(path)):
    empty = False
    yield checked(f"{path}: line {number}", row)
  if empty:
    raise errors.UserError(
      f'{path}: no line found, objects such as {{"{KEY}": ["id or title"]}}'
      " expected"
    )


def from_flags(given: Sequence[str]) -> list[Row]:
  """Returns the one history of the command line.

  Args:
    given: an id or a title each, or a JSON list of them.

  Raises:
    UserError: a JSON list holds something else.
  """
  items: list[Any] = []
  for value in given:
    parsed: Any = value
    if value.lstrip().startswith("["):
      try:
        parsed = storage.parse_json(value, _FLAG)
      except errors.UserError:
        pass  # A title may begin with a bracket: "[PROTOTYPE]".
    items += parsed if isinstance(parsed, list) else [parsed]
  return [checked(_FLAG, {KEY: items})]


def from_lists(histories: Sequence[Sequence[str | int]]) -> list[Row]:
  """Returns histories given in a program, a list of ids and titles each.

  Raises:
    UserError: one of them is something else.
  """
  if isinstance(histories, (str, bytes)) or not isinstance(histories, Iterable):
    raise errors.UserError(
      f"histories: {type(histories).__name__} found, a list of histories, a"
      " list of ids and titles each, expected"
    )
  found = []
  for number, history in enumerate(histories):
    place = f"histories[{number}]"
    if isinstance(history, (str, bytes)) or not isinstance(history, Iterable):
      raise errors.UserError(
        f"{place}: {history!r} found, a list of ids or titles, oldest first,"
        " expected"
      )
    items = [
      int(item) if isinstance(item, np.integer) else item for item in history
    ]
    _check_items(place, items)
    found.append(Row(place, {KEY: items}, place))
  return found


def checked(place: str, row: dict[str, Any]) -> Row:
  """Returns a row with its history.

  Args:
    place: of the row, for messages.
    row: its object.

  Raises:
    UserError: it has no list of ids and titles.
  """
  _check(place, row)
  return Row(place, row, f'{place}: "{KEY}"')


def _check(place: str, row: dict[str, Any]) -> None:
  """Raises UserError where a row has no list of ids and titles."""
  if KEY not in row:
    keys = values.listed(list(map(repr, row))) or "no key"
    raise errors.UserError(
      f'{place}: {keys} found, "{KEY}" with a list of ids or titles, oldest'
      " first, expected"
    )
  items = row[KEY]
  if not isinstance(items, list):
    raise errors.UserError(
      f'{place}: "{KEY}": {type(items).__name__} found, a list of ids or'
      " titles, oldest first, expected"
    )
  for key in ANSWER:
    if key in row:
      raise errors.UserError(
        f"{place}: key {key!r} found, which the answer will have; another name"
        " expected"
      )
  try:
    json.dumps(row, allow_nan=False)
  except ValueError:
    raise errors.UserError(
      f"{place}: NaN or infinity found, values that JSON has expected"
    ) from None
  except RecursionError:
    raise errors.UserError(
      f"{place}: nested too deeply, flat values expected"
    ) from None
  _check_items(f'{place}: "{KEY}"', items)


def _check_items(place: str, items: list[Any]) -> None:
  for number, item in enumerate(items, 1):
    if isinstance(item, bool) or not isinstance(item, (str, int)):
      raise errors.UserError(
        f"{place}: item {number}: {values.shown(item)} found, an id or a title"
        " expected"
      )


def find(
  rows: Iterable[Row],
  catalogue: Catalogue,
  unknown: str,
  option: str = "config.recommend.unknown",
  before_search: Callable[[], None] = lambda: None,
) -> Histories:
  """Looks every item up: as an id first, then as a title in any case.

  Args:
    rows: as given.
    catalogue: where to look.
    unknown: what becomes of an item that isn't there: "error", "nearest" (the
      title that is most like it, if one is), "text" (the prompt names it as it
      is) or "skip".
    option: what the caller calls `unknown`, for messages.
    before_search: called before each search for a like title; it may raise.

  Raises:
    UserError: an item isn't in the catalogue and `unknown` is "error", or no
      title is like it and `unknown` is "nearest".
  """
  rows = list(rows)
  titles, items, lacking, taken = [], [], [], []
  for row in rows:
    own_titles, own_items, own_lacking = [], [], []
    own_near: dict[str, str] = {}
    for number, item in enumerate(row.content[KEY], 1):
      text = raw_files.repaired(str(item))
      index = catalogue.index_of_external_id(text)
      if index is None and isinstance(item, str):
        index = catalogue.index_of_written_title(text)
      if index is not None:
        own_items.append(index)
        own_titles.append(catalogue.titles[index])
        continue
      near = None
      if unknown == "nearest" and isinstance(item, str):
        before_search()
        near = next(iter(nearest(text, catalogue.titles, 1)), None)
      if near is not None:
        index = catalogue.index_of_title(near)
        assert index is not None
        own_items.append(index)
        own_titles.append(near)
        own_near[text] = near
        continue
      if unknown in ("error", "nearest"):
        place = f"{row.list_place}: item {number}"
        raise errors.UserError(_unknown(place, text, catalogue, option))
      own_lacking.append(text)
      if unknown == "text":
        own_titles.append(_shortened(row, number, text))
    titles.append(own_titles)
    items.append(own_items)
    lacking.append(own_lacking)
    taken.append(own_near)
  return Histories(rows, titles, items, lacking, taken)


def _shortened(row: Row, number: int, text: str) -> str:
  """Returns a text that isn't in the catalogue as the prompt names it."""
  if len(text) <= _LONGEST_TEXT:
    return text
  logging.warning(
    "%s: item %d: a text of %d characters found: the prompt has the first %d",
    row.list_place,
    number,
    len(text),
    _LONGEST_TEXT,
  )
  return text[:_LONGEST_TEXT]


def nearest(text: str, titles: Sequence[str], count: int = 3) -> list[str]:
  """Returns titles that are like a text, the nearest first; maybe none.

  Of a million titles those that share the most pieces with it are compared,
  after a second; in any case of letters.

  Args:
    text: what a user wrote.
    titles: of the catalogue.
    count: titles at most.
  """
  if len(text) > _LONGEST_COMPARED:
    return []
  text = catalogue_lib.folded(text)
  starts = range(max(len(text) - _PIECE, 0) + 1)
  pieces = {text[n : n + _PIECE] for n in starts}
  chosen = sorted(pieces)[:: -(-len(pieces) // _MOST_PIECES)]

  def shared(title: str) -> int:
    title = title.casefold()
    return sum(piece in title for piece in chosen)

  short = (title for title in titles if len(title) <= _LONGEST_COMPARED)
  likely = heapq.nlargest(_MOST_COMPARED, short, key=shared)
  by_folded: dict[str, str] = {}
  for title in likely:
    by_folded.setdefault(catalogue_lib.folded(title), title)
  near = difflib.get_close_matches(text, list(by_folded), n=count)
  return [by_folded[title] for title in near]


def _unknown(place: str, text: str, catalogue: Catalogue, option: str) -> str:
  near = [values.shown(title) for title in nearest(text, catalogue.titles)]
  hint = f"; did you mean {' or '.join(near)}?" if near else ""
  shown = values.shown(text)
  if len(text) > _LONGEST_COMPARED:
    shown += f" ({len(text)} characters)"
  return (
    f"{place}: {shown} found, an id or a title of the catalogue expected{hint}"
    f" ({option}=text writes it into the prompt as it is, skip leaves it out,"
    " nearest takes the nearest title)"
  )
