"""Who waits for a slot: the earliest deadline first, and not too many."""

import dataclasses
import heapq
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from bigrec_jax.data.prepared import histories as histories_lib
from bigrec_jax.decoding import running
from bigrec_jax.recommend import filters
from bigrec_jax.serving import refusals, requests

# Of the rate at which users were done lately, the newest counts so much.
_NEWEST = 0.1


@dataclasses.dataclass(eq=False)
class Request:
  """One request, whose histories are decoded and listed on their own.

  Attributes:
    ask: what is asked for.
    found: the histories in the catalogue of `edition`.
    shown: what may be listed.
    edition: number of the catalogue that they were looked up in.
    deadline: when nobody waits any more, on the clock of `time.monotonic`.
    answer: a list for each history, once all are there.
  """

  ask: requests.Ask
  found: histories_lib.Histories
  shown: filters.Filter
  edition: int
  deadline: float
  answer: "futures.Future[list[Any]]" = dataclasses.field(
    default_factory=futures.Future
  )
  _lists: dict[int, Any] = dataclasses.field(default_factory=dict)

  @property
  def is_over(self) -> bool:
    """Whether nobody waits for the answer."""
    return self.answer.done()

  def expire(self, now: float) -> bool:
    """Refuses it if its deadline has passed; returns whether it is over."""
    if now > self.deadline:
      self.fail(refusals.expired())
    return self.is_over

  def fail(self, error: BaseException) -> None:
    """Refuses it, unless it is over."""
    try:
      self.answer.set_exception(error)
    except futures.InvalidStateError:
      pass  # Whoever asked has left, or another of its histories failed.

  def take(self, place: int, found: Any) -> None:
    """Keeps the list of a history; the last one makes the answer."""
    self._lists[place] = found
    if len(self._lists) == len(self.found) and not self.is_over:
      ordered = [self._lists[n] for n in range(len(self.found))]
      try:
        self.answer.set_result(ordered)
      except futures.InvalidStateError:
        pass


@dataclasses.dataclass(eq=False)
class User:
  """One history of a request.

  Attributes:
    request: whose.
    place: among its histories.
    prompt: for the slots, named by this object's `name`; None where it begins
      as no other does, and is decoded by itself.
    name: of everybody another one.
  """

  request: Request
  place: int
  prompt: running.Prompt | None
  name: int

  @property
  def history(self) -> histories_lib.Histories:
    """The one history, as it was looked up."""
    return self.request.found[self.place : self.place + 1]


class Done(NamedTuple):
  """A user for whom texts were written.

  Attributes:
    user: who.
    texts: {"predict", "scores"}; None where no slot could write them.
  """

  user: User
  texts: dict[str, list] | None


class Change(NamedTuple):
  """Something that is done while nobody is decoded, or listed.

  Attributes:
    act: does it.
    trie: whether other titles may be written afterwards.
    done: set once it was done, or failed.
    problem: holds why it failed.
  """

  act: Callable[[], None]
  trie: bool
  done: threading.Event
  problem: list[BaseException]


class Queue:
  """Users who wait; for several threads."""

  def __init__(self, most: int):
    """Makes an empty one.

    Args:
      most: users that may wait.
    """
    self.changed = threading.Condition()
    self._most = most
    self._heap: list[tuple[float, int, User]] = []
    self._arrivals = itertools.count()
    self._per_second = 0.0
    self._last = time.monotonic()

  def __len__(self) -> int:
    return len(self._heap)

  def add(self, users: Sequence[User]) -> None:
    """Lets users wait.

    Raises:
      RefusedError: 429, there would be too many.
    """
    with self.changed:
      if len(self._heap) + len(users) > self._most:
        self._forget()
      if len(self._heap) + len(users) > self._most:
        raise refusals.RefusedError(
          429,
          f"{len(self._heap)} histories wait already, at most {self._most} may"
          " (config.serve.queue)",
          retry_after=self._wait(),
        )
      for user in users:
        entry = user.request.deadline, next(self._arrivals), user
        heapq.heappush(self._heap, entry)
      self.changed.notify_all()

  def take(self, most: int) -> list[User]:
    """Returns those with the earliest deadlines who are still waited for."""
    found: list[User] = []
    with self.changed:
      now = time.monotonic()
      while self._heap and len(found) < most:
        user = heapq.heappop(self._heap)[2]
        if not user.request.expire(now):
          found.append(user)
    return found

  def done(self, users: int) -> None:
    """Learns how fast users are served."""
    now = time.monotonic()
    rate = users / max(now - self._last, 1e-6)
    self._last = now
    self._per_second += _NEWEST * (rate - self._per_second)

  def clear(self, error: BaseException) -> None:
    """Refuses everybody."""
    with self.changed:
      for _, _, user in self._heap:
        user.request.fail(error)
      self._heap.clear()

  def _forget(self) -> None:
    """Lets go of users whom nobody waits for any more."""
    now = time.monotonic()
    self._heap = [
      entry for entry in self._heap if not entry[2].request.expire(now)
    ]
    heapq.heapify(self._heap)

  def _wait(self) -> int:
    """Returns seconds until half of those who wait are served, about."""
    if not self._per_second:
      return 1
    return min(60, 1 + int(len(self._heap) / 2 / self._per_second))
