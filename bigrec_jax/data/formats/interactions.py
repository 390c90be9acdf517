"""Who took which item when: what every format with a log is read into."""

import array
import dataclasses
import math
from collections.abc import (
  Callable,
  Collection,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)

import numpy as np

from bigrec_jax import errors
from bigrec_jax.data.prepared import doctor as doctor_lib

_LAST_SECOND = 253_402_300_799  # Of the year 9999.


@dataclasses.dataclass(frozen=True, eq=False)
class Interactions:
  """A log of n interactions in the order of the raw file.

  Attributes:
    user: [n] int64, users numbered in order of their first line.
    item: [n] int32, catalogue rows.
    timestamp: [n] int64, seconds or whatever unit the file has.
    titles: title by external item id; its order is the catalogue's.
    rating: [n] float32 in the unit of the file, NaN where a line has none;
      None where the format has none.
    users: external id by user number; None where the format has none.
    attributes: what else is known of an item, as JSON, by external id.
  """

  user: np.ndarray
  item: np.ndarray
  timestamp: np.ndarray
  titles: Mapping[str, str]
  rating: np.ndarray | None = None
  users: Sequence[str] | None = None
  attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def __len__(self) -> int:
    return len(self.user)


class Log:
  """Builds Interactions line by line, 24 bytes an interaction."""

  def __init__(self) -> None:
    self._users: dict[str, int] = {}
    self._items: dict[str, int] = {}
    self._user = array.array("q")
    self._item = array.array("i")
    self._timestamp = array.array("q")
    self._rating = array.array("f")

  @property
  def items(self) -> Collection[str]:
    """The external ids of all items so far, in order of appearance."""
    return self._items.keys()

  def __len__(self) -> int:
    return len(self._user)

  def add(
    self, user: str, item: str, timestamp: int, rating: float = math.nan
  ) -> None:
    """Adds an interaction; NaN where its rating isn't known."""
    self._user.append(self._users.setdefault(user, len(self._users)))
    self._item.append(self._items.setdefault(item, len(self._items)))
    self._timestamp.append(timestamp)
    self._rating.append(rating)

  def refine(self, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Puts other times [n] int64 in the place of those that were added."""
    if len(self):
      own = change(np.frombuffer(self._timestamp, np.int64))
      self._timestamp = array.array("q", own.tobytes())

  def by_user(self) -> Iterator[tuple[str, list[str]]]:
    """Yields (external id, external ids of items by time) of each user."""
    if not len(self):
      return
    user = np.frombuffer(self._user, np.int64)
    order = np.lexsort((np.frombuffer(self._timestamp, np.int64), user))
    item = np.frombuffer(self._item, np.int32)[order]
    ends = np.cumsum(np.bincount(user))
    items = list(self._items)
    start = 0
    for name, end in zip(self._users, ends.tolist(), strict=True):
      yield name, [items[number] for number in item[start:end].tolist()]
      start = end

  def finish(
    self,
    source: str,
    titles: Mapping[str, str],
    rule: str,
    doctor: doctor_lib.Doctor,
    *,
    attributes: Mapping[str, str] | None = None,
    keep: str = "",
  ) -> Interactions:
    """Returns the interactions with items that have a title.

    Args:
      source: the file, for the error.
      titles: title by external id; its order is the catalogue's.
      rule: what an item without a title means, for the doctor.
      doctor: told how many interactions that removes.
      attributes: see `Interactions`.
      keep: what a user does to keep them.

    Raises:
      UserError: no interaction is left.
    """
    rows = {key: row for row, key in enumerate(titles)}
    row_of = np.array([rows.get(key, -1) for key in self._items], np.int32)
    item = row_of[np.frombuffer(self._item, np.int32)] if len(self) else row_of
    known = item >= 0  # [n]
    unknown = [key for key in self._items if key not in rows]
    doctor.removed(rule, "interactions", len(self), known.sum(), unknown, keep)
    if not known.any():
      raise errors.UserError(
        f"{source}: {len(self):,} interactions found, none of them with an"
        f" item that has a title{_ids_beside(self._items, titles)}"
      )
    user = np.frombuffer(self._user, np.int64)[known]
    # Numbered by their first interaction that is left.
    _, first, number = np.unique(user, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    timestamp = np.frombuffer(self._timestamp, np.int64)[known]
    _examine_clock(timestamp, doctor)
    rating = np.frombuffer(self._rating, np.float32)[known]
    return Interactions(
      rank[number],
      item[known],
      timestamp,
      titles,
      None if np.isnan(rating).all() else rating,
      self._names(user[np.sort(first)]),
      attributes or {},
    )

  def _names(self, users: np.ndarray) -> list[str]:
    """Returns the external ids of users by their first numbers."""
    names = list(self._users)
    return [names[number] for number in users.tolist()]


def _ids_beside(items: Iterable[str], titles: Iterable[str]) -> str:
  """Returns an id of either side: how they differ is seen at once."""
  pair = next(iter(items), None), next(iter(titles), None)
  if None in pair:
    return ""
  return (
    f": its items are such as {pair[0]!r:.80}, titles are of {pair[1]!r:.80}"
  )


def _examine_clock(timestamp: np.ndarray, doctor: doctor_lib.Doctor) -> None:
  """Tells of times that are likely slips; all are read, in their order."""
  early = timestamp < 0
  doctor.found(
    "interactions before 1970", early.sum(), map(str, timestamp[early][:5])
  )
  late = timestamp > _LAST_SECOND
  # All of a file in milliseconds, say, is another unit and no slip.
  if late.any() and not late.all():
    doctor.found(
      "interactions after the year 9999 if times are seconds, beside others"
      " before it",
      late.sum(),
      map(str, timestamp[late][:5]),
    )
