"""All mistakes of all files in one error, so that they are mended in one go.

A reader notes what is wrong with a line in the `Mistakes` of its file (`of`)
and goes on; a format reads its files by `gather`, which goes on with the next
where one is wrong.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from bigrec_jax import errors

_SHOWN = 3  # Of a kind in full; of the others the numbers.
_NUMBERED = 5
# Whoever names the wrong column need not wait for the end of ten million rows.
_MOST = 10_000


class _TooManyError(errors.UserError):
  """There is no use in looking further."""


class Mistakes:
  """What is wrong in one file."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._total = 0
    self._shown: dict[str, list[str]] = {}
    self._others: dict[str, list[str]] = {}
    self._counts: dict[str, int] = {}

  def add(self, kind: str, place: str, problem: str) -> None:
    """Adds a mistake.

    Args:
      kind: what the mistakes that are like this one share, e.g. times.
      place: e.g. line 7.
      problem: what was found, and what was expected.

    Raises:
      UserError: there are too many to go on.
    """
    self._total += 1
    self._counts[kind] = self._counts.get(kind, 0) + 1
    shown = self._shown.setdefault(kind, [])
    others = self._others.setdefault(kind, [])
    if len(shown) < _SHOWN:
      shown.append(f"{place}: {problem}")
    elif len(others) < _NUMBERED:
      others.append(place)
    if self._total >= _MOST:
      raise _TooManyError(f"{self} (and no further was looked)")

  def __len__(self) -> int:
    return self._total

  def __str__(self) -> str:
    parts = []
    for kind, shown in self._shown.items():
      parts += shown
      more = self._counts[kind] - len(shown)
      if more:
        dots = ", ..." if more > len(self._others[kind]) else ""
        places = ", ".join(self._others[kind]) + dots
        parts.append(f"{more:,} more such {kind} ({places})")
    return f"{self._path}: {'; '.join(parts)}"


class Strict(Mistakes):
  """Raises the first mistake: for who can't wait for the end of a file."""

  def add(self, kind: str, place: str, problem: str) -> None:
    """Raises UserError with the mistake."""
    super().add(kind, place, problem)
    raise errors.UserError(str(self))


@contextlib.contextmanager
def of(path: pathlib.Path) -> Iterator[Mistakes]:
  """Yields where the mistakes of a file are noted while it is read.

  Raises:
    UserError: some were noted, or reading ended in one: then in both.
  """
  wrong = Mistakes(path)
  try:
    yield wrong
  except _TooManyError:
    raise
  except errors.UserError as error:
    if not len(wrong):
      raise
    last = str(error).removeprefix(f"{path}: ")
    raise errors.UserError(f"{wrong}; {last}") from None
  if len(wrong):
    raise errors.UserError(str(wrong))


def gather(*readers: Callable[[], Any]) -> list[Any]:
  """Returns what each reader returns, all of which are called.

  Raises:
    UserError: one did or more; all their messages.
  """
  found, bad = [], []
  for reader in readers:
    try:
      found.append(reader())
    except errors.UserError as error:
      bad.append(str(error))
  if bad:
    raise errors.UserError("; ".join(dict.fromkeys(bad)))
  return found
