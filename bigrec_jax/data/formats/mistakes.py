"""All mistakes of a file in one error, so that they are mended in one go."""

import pathlib
from collections.abc import Iterable

from bigrec_jax import errors

_SHOWN = 3  # Of a kind in full; of the others the numbers.
_NUMBERED = 5
# Whoever names the wrong column need not wait for the end of ten million rows.
_MOST = 10_000


class Mistakes:
  """What is wrong in one file."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self.clear()

  def clear(self) -> None:
    """Forgets all: the file is read again."""
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
      raise errors.UserError(f"{self} (and no further was looked)")

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


def check(found: Iterable[Mistakes]) -> None:
  """Raises UserError with all mistakes of all files, if there are any."""
  bad = [str(own) for own in found if len(own)]
  if bad:
    raise errors.UserError("; ".join(bad))
