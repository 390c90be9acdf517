"""Whether a program fits, by how much not, and the largest batch that does."""

import dataclasses
from collections.abc import Callable

from bigrec_jax.planning import chips

_MOST_PROBES = 3  # Compilations, beside the one that is there.


def line(name: str, peak: int, capacity: int | None) -> str:
  """Returns one line for the user.

  Args:
    name: of the program.
    peak: bytes that it takes on a device.
    capacity: bytes of a device; None = not known.
  """
  taken = f"{name}: {peak / chips.GIB:.2f} GiB a device"
  if capacity is None:
    return f"{taken}; its memory is not known (config.plan.memory_gib)"
  room = f"of {capacity / chips.GIB:.2f} GiB"
  if peak <= capacity:
    return f"{taken} {room}: fits"
  missing = (peak - capacity) / chips.GIB
  return f"{taken} {room}: does not fit, by {missing:.2f} GiB"


@dataclasses.dataclass(frozen=True)
class Search:
  """What a search found.

  Attributes:
    rows: the largest batch that was compiled and fits; 0 = none.
    peak: bytes of a device with it.
    limit: the most that made sense to ask for.
    probes: {rows: peak bytes} of all that were compiled.
  """

  rows: int
  peak: int
  limit: int
  probes: dict[int, int]


def largest(
  peak_of: Callable[[int], int],
  known: dict[int, int],
  unit: int,
  limit: int,
  capacity: int,
) -> Search:
  """Searches the largest number of rows whose program fits.

  Memory is nearly a straight line in the rows, so two points say where it
  meets the capacity; that place is compiled too.

  Args:
    peak_of: compiles for so many rows and returns the peak bytes.
    known: {rows: peak bytes} of what is compiled already, at least one.
    unit: rows are multiples of it.
    limit: the most rows to try, a multiple of `unit`.
    capacity: bytes of a device.
  """
  probes = dict(known)
  for _ in range(_MOST_PROBES):
    rows = _next(probes, unit, limit, capacity)
    if rows is None:
      break
    probes[rows] = peak_of(rows)
  fitting = [rows for rows, peak in probes.items() if peak <= capacity]
  best = max(fitting, default=0)
  return Search(best, probes.get(best, 0), limit, probes)


def _next(
  probes: dict[int, int], unit: int, limit: int, capacity: int
) -> int | None:
  """Returns which number of rows to compile next; None = nothing to learn."""
  fitting = max((r for r, p in probes.items() if p <= capacity), default=0)
  failing = min(
    (r for r, p in probes.items() if p > capacity), default=limit + unit
  )
  low, high = fitting + unit, failing - unit  # What is not known yet.
  if low > high:
    return None
  if len(probes) == 1:
    wanted = float(2 * fitting if fitting else failing // 2)
  else:
    # The two nearest to the capacity.
    (r0, p0), (r1, p1) = sorted(
      sorted(probes.items(), key=lambda item: abs(item[1] - capacity))[:2]
    )
    slope = (p1 - p0) / (r1 - r0)
    wanted = r1 + (capacity - p1) / slope if slope > 0 else high
  return min(max(int(wanted) // unit * unit, low), high)
