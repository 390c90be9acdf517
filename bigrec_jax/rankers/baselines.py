"""Rankers beside distance, judged by the same rule: scores, popularity, chance.

Each returns a target's exact rank in a stable sort (best score first, ties by
item); with duplicate titles the best rank of the target's group.
"""

import numpy as np

from bigrec_jax.rankers.distance import user_block


def score_ranks(
  scores: np.ndarray, targets: np.ndarray, groups: np.ndarray
) -> np.ndarray:
  """Ranks by scores, highest first; for a block of users.

  Args:
    scores: [n, I], finite.
    targets: [n] catalogue rows.
    groups: [I] int32; `np.arange(I)` where each row is its own target.

  Returns:
    [n] int64.
  """
  rows = user_block.members(groups).rows(groups[targets])  # [n, M]
  own = np.take_along_axis(scores, np.maximum(rows, 0), axis=1)
  own = np.where(rows >= 0, own, -np.inf)
  place = own.argmax(axis=1)[:, None]  # First of equals: lowest row.
  best = np.take_along_axis(own, place, axis=1)
  row = np.take_along_axis(rows, place, axis=1)
  before = scores > best
  before |= (scores == best) & (np.arange(scores.shape[1])[None] < row)
  return before.sum(axis=1)


def popularity_ranks(
  popularity: np.ndarray, targets: np.ndarray, groups: np.ndarray
) -> np.ndarray:
  """Ranks everybody's items by popularity [I]; returns [N] int64."""
  place = np.empty(len(popularity), np.int64)
  order = np.argsort(-np.asarray(popularity, np.float64), kind="stable")
  place[order] = np.arange(len(order))
  best = np.full(len(popularity), len(popularity))
  np.minimum.at(best, groups, place)
  return best[groups[targets]]


def random_ranks(
  num_items: int, targets: np.ndarray, groups: np.ndarray, seed: int
) -> np.ndarray:
  """Ranks each user's items in a random order of their own; [N] int64."""
  rng = np.random.default_rng(seed)
  sizes = np.bincount(groups, minlength=num_items)[groups[targets]]
  ranks = rng.integers(0, num_items, size=len(targets))
  for user in np.flatnonzero(sizes > 1):
    places = rng.choice(num_items, size=sizes[user], replace=False)
    ranks[user] = places.min()
  return ranks
