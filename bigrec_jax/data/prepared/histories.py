"""Histories to recommend for: read, and found in the catalogue.

A JSONL file has one object a line; `history` lists external ids or titles,
oldest first. Whatever else a row holds (a user id, say) comes back with its
recommendations.
"""

import dataclasses
import difflib
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigrec_jax import errors
from bigrec_jax.data.formats import raw_files, values
from bigrec_jax.data.prepared import doctor as doctor_lib
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.workdir import storage

KEY = "history"
UNKNOWN = ("error", "text", "skip")
_FLAG = "--history"
# Keys of an answer (stages/recommend.py).
ANSWER = ("predict", "scores", "recommendations", "provenance")
# Titles that are compared to find the nearest to a misspelt one.
_MOST_COMPARED = 100_000


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
  """

  rows: Sequence[Row]
  titles: list[list[str]]
  items: list[list[int]]
  unknown: list[list[str]]

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, part: slice) -> "Histories":
    """Returns some of them."""
    return Histories(
      self.rows[part], self.titles[part], self.items[part], self.unknown[part]
    )

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


def read(path: pathlib.Path) -> list[Row]:
  """Reads a JSONL file, plain or .gz.

  Raises:
    UserError: a line is no object with a list of ids and titles, or there is
      no line.
  """
  found = []
  for number, row in raw_files.json_lines(path, doctor_lib.Doctor("histories")):
    place = f"{path}: line {number}"
    _check(place, row)
    found.append(Row(place, row, f'{place}: "{KEY}"'))
  if not found:
    raise errors.UserError(
      f'{path}: no line found, objects such as {{"{KEY}": ["id or title"]}}'
      " expected"
    )
  return found


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
  row = {KEY: items}
  _check(_FLAG, row)
  return [Row(_FLAG, row, f'{_FLAG}: "{KEY}"')]


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
  rows: Sequence[Row],
  catalogue: Catalogue,
  unknown: str,
  option: str = "config.recommend.unknown",
) -> Histories:
  """Looks every item up: as an id first, then as a title.

  Args:
    rows: as given.
    catalogue: where to look.
    unknown: what becomes of an item that isn't there: "error", "text" (the
      prompt names it as it is) or "skip".
    option: what the caller calls `unknown`, for messages.

  Raises:
    UserError: an item isn't in the catalogue and `unknown` is "error".
  """
  titles, items, lacking = [], [], []
  for row in rows:
    own_titles, own_items, own_lacking = [], [], []
    for number, item in enumerate(row.content[KEY], 1):
      text = raw_files.repaired(str(item))
      index = catalogue.index_of_external_id(text)
      if index is None and isinstance(item, str):
        index = catalogue.index_of_title(text)
      if index is not None:
        own_items.append(index)
        own_titles.append(catalogue.titles[index])
        continue
      if unknown == "error":
        place = f"{row.list_place}: item {number}"
        raise errors.UserError(_unknown(place, text, catalogue, option))
      own_lacking.append(text)
      if unknown == "text":
        own_titles.append(text)
    titles.append(own_titles)
    items.append(own_items)
    lacking.append(own_lacking)
  return Histories(rows, titles, items, lacking)


def _unknown(place: str, text: str, catalogue: Catalogue, option: str) -> str:
  near = difflib.get_close_matches(text, catalogue.titles[:_MOST_COMPARED], n=1)
  hint = f"; did you mean {values.shown(near[0])}?" if near else ""
  return (
    f"{place}: {values.shown(text)} found, an id or a title of the catalogue"
    f" expected{hint} ({option}=text writes it into the prompt as it is, skip"
    " leaves it out)"
  )
