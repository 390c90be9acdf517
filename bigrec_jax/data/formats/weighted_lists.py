"""Many weighted lists of items in flat arrays, to draw from or add up."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Lists:
  """Weighted lists of items, one after the other; R lists, n entries in all.

  Attributes:
    starts: int64 [R + 1], where each list begins.
    items: int32 [n], the catalogue rows of list 0, then list 1, ...
    probability: float64 [n], sums to 1 over a list.
    cumulative: float64 [n], the list's number plus the running sum within it,
      so that one sorted search draws from any list.
  """

  starts: np.ndarray
  items: np.ndarray
  probability: np.ndarray
  cumulative: np.ndarray

  @classmethod
  def build(
    cls,
    num_lists: int,
    rows: np.ndarray,
    items: np.ndarray,
    weights: np.ndarray,
  ) -> "Lists":
    """Groups entries (list number, item, positive weight), each [n]."""
    order = np.lexsort((items, rows))
    rows, items, weights = rows[order], items[order], weights[order]
    starts = np.searchsorted(rows, np.arange(num_lists + 1))
    totals = np.bincount(rows, weights, num_lists)  # [R]
    probability = weights / totals[rows]
    running = np.cumsum(probability)
    before = np.concatenate([[0.0], running])[starts[:-1]]  # [R]
    within = np.minimum(running - before[rows], 1.0)
    last = starts[1:][starts[1:] > starts[:-1]] - 1
    within[last] = 1.0  # Rounding must not leave a gap that draws nothing.
    return cls(starts, items.astype(np.int32), probability, rows + within)

  def filled(self) -> np.ndarray:
    """Returns which lists have any entry, bool [R]."""
    return np.diff(self.starts) > 0

  def draw(self, rows: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Draws an item from each of the lists `rows` [n]; none may be empty."""
    place = np.searchsorted(self.cumulative, rows + uniform, side="right")
    # A row number plus almost 1 may round up to the next row's first entry.
    return self.items[np.minimum(place, self.starts[rows + 1] - 1)]

  def add_to(
    self, out: np.ndarray, rows: np.ndarray, scale: np.ndarray
  ) -> None:
    """Adds scale[n] * probability of list rows[n] to out[n], all n of [N, I].

    Entries with a scale of 0 are skipped, so their list number may be -1.
    """
    (chosen,) = np.nonzero(scale)
    rows = rows[chosen]
    lengths = self.starts[rows + 1] - self.starts[rows]
    target = np.repeat(chosen, lengths)
    first = np.repeat(self.starts[rows], lengths)
    offset = np.arange(len(target)) - np.repeat(
      np.cumsum(lengths) - lengths, lengths
    )
    entry = first + offset
    # No item is twice in a list, so no (row, item) pair comes twice here.
    out[target, self.items[entry]] += scale[target] * self.probability[entry]
