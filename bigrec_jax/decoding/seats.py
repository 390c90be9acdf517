"""Who has which slot: what the host knows of slots whose number changes.

The slots are split over U shards, each user stays within one, and the number
of slots is one of few: all that `counts_of` gives. Only numbers and names are
here; slots.py moves what they stand for.

Letters: B slots at most, C slots now, U shards.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import TypeVar

import numpy as np

# Each number of slots is so many times the one below it. A step between saves
# little: programs are what costs, and each number has its own.
_FACTOR = 4

T = TypeVar("T")


def counts_of(slots: int, shards: int) -> tuple[int, ...]:
  """Returns how many slots there may be, ascending; the last is all.

  Args:
    slots: B, a multiple of U.
    shards: U, of which each number is a multiple.
  """
  found = [slots // shards]
  while found[-1] > 1:
    found.append(max(found[-1] // _FACTOR, 1))
  return tuple(shards * count for count in reversed(found))


class Seats:
  """Names of users in C slots.

  Attributes:
    names: [C], None where a slot is free.
    counts: ascending, what C may be.
  """

  def __init__(self, slots: int, shards: int):
    """Makes B slots, a multiple of U, free."""
    self._most, self._shards = slots, shards
    self.counts = counts_of(slots, shards)
    self.names: list[Hashable | None] = [None] * slots

  @property
  def count(self) -> int:
    """C."""
    return len(self.names)

  @property
  def busy(self) -> int:
    """Slots that have a user."""
    return sum(name is not None for name in self.names)

  @property
  def per_shard(self) -> int:
    """C / U."""
    return self.count // self._shards

  @property
  def taken(self) -> np.ndarray:
    """[C] bool: which slots have a user."""
    return np.array([name is not None for name in self.names])

  def clear(self) -> None:
    """Frees all slots."""
    self.names = [None] * self.count

  def needed(self, more: int) -> int:
    """Returns the least C for these users, each in its shard, and some more.

    Raises:
      ValueError: no number of slots is large enough.
    """
    fullest = int(self.taken.reshape(self._shards, -1).sum(axis=1).max())
    wanted = max(self.busy + more, self._shards * fullest)
    for count in self.counts:
      if count >= wanted:
        return count
    raise ValueError(f"{wanted} slots needed, {self._most} are there")

  def move(self, count: int) -> np.ndarray:
    """Makes the slots others in number, around whoever has one.

    Args:
      count: no less than `needed(0)`.

    Returns:
      [count] int32, for each new slot its user's place before, within the
      shard; B where it is free.
    """
    before, after = self.per_shard, count // self._shards
    places = np.full((self._shards, after), self._most, np.int32)
    names: list[Hashable | None] = [None] * count
    for shard in range(self._shards):
      own = self.names[shard * before : (shard + 1) * before]
      kept = [place for place, name in enumerate(own) if name is not None]
      places[shard, : len(kept)] = kept
      start = shard * after
      names[start : start + len(kept)] = [own[place] for place in kept]
    self.names = names
    return places.ravel()

  def offer(
    self, waiting: Sequence[T], size: int
  ) -> Iterator[tuple[T | None, int]]:
    """Yields R users with free slots, those of a shard side by side.

    Each shard takes its own, so that no cache crosses devices.

    Args:
      waiting: users, as many as there are free slots at most.
      size: R, a multiple of U; None, with slot B, fills up.
    """
    queue = list(waiting)
    for shard in range(self._shards):
      first = shard * self.per_shard
      own = self.names[first : first + self.per_shard]
      free = [first + n for n, name in enumerate(own) if name is None]
      for n in range(size // self._shards):
        if queue and n < len(free):
          yield queue.pop(0), free[n]
        else:
          yield None, self._most
