"""Items that a user never had, drawn at random.

Letters: N rows, I items.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from bigrec_jax import errors
from bigrec_jax.data.prepared.examples import Examples


class Negatives:
  """Draws items, each title once, that are in no row of a user.

  Training is given train rows and their items alone: it never reads an item of
  which only valid or test know, which would teach that new items are wrong.
  """

  def __init__(
    self,
    rows: Callable[[], Sequence[Examples]],
    groups: np.ndarray,
    known: np.ndarray,
  ):
    """Reads nothing yet.

    Args:
      rows: returns what tells who had what, of one split or several; of rows
        without a user only the row itself is known.
      groups: [I] int32, `Catalogue.groups`.
      known: [I] bool, the items that may be drawn.
    """
    self._rows, self._groups = rows, groups
    self._titles = np.unique(groups[known])

  @functools.cached_property
  def _pairs(self) -> np.ndarray:
    """Who had which title: user * I + group, ascending."""
    pairs = [np.empty(0, np.int64)]
    for part in self._rows():
      items = np.concatenate([part.history, part.target[:, None]], axis=1)
      known = (items >= 0) & (part.user >= 0)[:, None]
      owner = np.broadcast_to(part.user[:, None], items.shape)[known]
      pairs.append(owner * len(self._groups) + self._groups[items[known]])
    return np.unique(np.concatenate(pairs))

  def check(self, examples: Examples, count: int, key: str) -> None:
    """Raises UserError where some row has fewer items to draw from.

    Args:
      examples: rows that are drawn for.
      count: items for each.
      key: of the configuration that asks for so many.
    """
    users = np.unique(examples.user[examples.user >= 0])
    size = len(self._groups)
    had = np.searchsorted(self._pairs, (users + 1) * size)
    had -= np.searchsorted(self._pairs, users * size)
    width = examples.history.shape[1] + 1
    most = max(int(had.max(initial=0)), width)
    if len(self._titles) - most < count:
      raise errors.UserError(
        f"{key}: {count} others than the target found, but of"
        f" {len(self._titles)} titles a user may have had {most}; at most"
        f" {max(len(self._titles) - most, 0)} others expected"
      )

  def draw(
    self, rng: np.random.Generator, user: int, own: np.ndarray, count: int
  ) -> np.ndarray:
    """Returns items [count] of different titles.

    Args:
      rng: where they come from.
      user: -1 = not known.
      own: items of the row itself, never drawn.
      count: at most what `check` allows.
    """
    size = len(self._groups)
    taken = set(self._groups[own].tolist())
    if user >= 0:
      first, past = np.searchsorted(
        self._pairs, [user * size, (user + 1) * size]
      )
      taken.update((self._pairs[first:past] - user * size).tolist())
    if 4 * (count + len(taken)) > len(self._titles):
      left = [title for title in self._titles.tolist() if title not in taken]
      return rng.permutation(left)[:count]
    found: list[int] = []
    while len(found) < count:
      for number in rng.integers(0, len(self._titles), 2 * count).tolist():
        title = int(self._titles[number])
        if title not in taken and len(found) < count:
          taken.add(title)
          found.append(title)
    return np.array(found, np.int64)
