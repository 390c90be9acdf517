"""popularity+cf with a gamma for each: which pairs are tried, and the choice.

  fused = (1 + w_pop)^-gamma_pop (1 + w_cf)^-gamma_cf * dn

With one gamma for both, the weaker part drags the stronger along: the sum may
be worse than CF alone. Here every gamma of the grid, and 0, is tried for CF;
for popularity 0 and `_FIRSTS` of the grid. Further pairs cost nothing, being
the ranks of the injections with a single gamma: each part alone, and one gamma
for both, at every gamma of the grid. So no pair chosen is worse on valid than
any of those three.

Letters: n users of a block, G gammas of the grid, F of popularity, Q pairs.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from bigrec_jax.rankers.combine import injection
from bigrec_jax.rankers.distance import critical, injected, user_block
from bigrec_jax.results import chosen, ground_file, metrics

INJECTION = "popularity+cf"
PROTOCOL = "two_gammas"
PARTS = ("popularity", "cf")
# The name of ranks at the pair chosen, in ranks/*.npz.
RANKS = chosen.TWO_GAMMAS

# Popularity's gammas besides 0, and how many times the largest of them is the
# smallest: a factor of 1.9 from one to the next of the published grids.
_FIRSTS = 12
_RANGE = 1000.0


def firsts(gammas: np.ndarray) -> np.ndarray:
  """Returns [F] positive gammas to try for popularity, ascending.

  They are of the grid, each the nearest to one of `_FIRSTS` numbers evenly
  spaced by ratio.

  Args:
    gammas: [G] the grid, ascending.
  """
  positive = gammas[gammas > 0]
  if len(positive) <= _FIRSTS:
    return positive
  low = max(positive[0], positive[-1] / _RANGE)
  wanted = np.geomspace(low, positive[-1], _FIRSTS)
  off = np.abs(np.log(wanted[:, None] / positive))
  return positive[np.unique(off.argmin(axis=1))]


class Pairs:
  """The pairs of gammas that are tried on valid, in the order of choice.

  Attributes:
    pairs: [Q, 2] gammas of popularity and of CF, ascending by the first, then
      by the second; each once.
  """

  def __init__(self, gammas: np.ndarray, shape: critical.Shape):
    """Lists them.

    Args:
      gammas: [G] the grid, ascending.
      shape: of grids that hold all its positive gammas.
    """
    self._positive = gammas[gammas > 0]
    self._columns = np.flatnonzero(gammas > 0)
    self._firsts = firsts(gammas)
    self._shape = shape
    grid, zeros = self._positive, np.zeros(len(self._positive))
    plane = np.stack(np.meshgrid(self._firsts, grid, indexing="ij"), axis=2)
    listed = np.concatenate(
      [
        [[0.0, 0.0]],
        np.stack([grid, zeros], axis=1),  # Popularity alone,
        np.stack([zeros, grid], axis=1),  # CF alone,
        np.stack([grid, grid], axis=1),  # both with one gamma.
        plane.reshape(-1, 2),
      ]
    )
    self.pairs, self._order = np.unique(listed, axis=0, return_index=True)

  def ranks(
    self,
    block: user_block.UserBlock,
    weights: injection.Injection,
    plain: np.ndarray,
    single: Mapping[str, np.ndarray],
    limit: int,
  ) -> np.ndarray:
    """Returns each user's rank at every pair, of `limit` or more as `limit`.

    Args:
      block: its users.
      weights: popularity and CF.
      plain: [n] ranks without injection.
      single: [n, G] ranks of each part, and of both with one gamma, at every
        gamma of the grid; those of `limit` or more need not be exact.
      limit: ranks below it are exact.

    Returns:
      [n, Q] of the smallest type.
    """
    listed = [plain[:, None]]
    for name in (*PARTS, INJECTION):
      listed.append(single[name][:, self._columns])
    if self._positive.size:
      grids = self._firsts, self._positive, self._shape
      plane = injected.pair_ranks(block, weights, *grids, plain, limit)
      listed.append(plane.reshape(len(block), -1))
    clipped = np.minimum(np.concatenate(listed, axis=1), limit)
    return clipped[:, self._order].astype(np.min_scalar_type(limit))

  def ranks_at(
    self,
    block: user_block.UserBlock,
    weights: injection.Injection,
    gammas: injection.Gammas,
    plain: np.ndarray,
  ) -> np.ndarray:
    """Returns exact ranks [n, 1] at one of the pairs.

    Args:
      block: its users.
      weights: popularity and CF.
      gammas: the pair.
      plain: [n] ranks without injection.
    """
    first, second = (np.array([gamma]) for gamma in gammas)
    about = self._shape, plain, None
    if first[0] > 0 and second[0] > 0:
      return injected.pair_ranks(block, weights, first, second, *about)[:, 0]
    # A part without a gamma is no part.
    only = weights.only(PARTS[:1] if first[0] > 0 else PARTS[1:])
    gamma = np.maximum(first, second)
    return injected.injected_ranks(block, only, gamma, *about)

  def choose(
    self, ranks: np.ndarray, cutoffs: Sequence[int]
  ) -> tuple[injection.Gammas, ground_file.Pairs]:
    """Returns the first pair with the best NDCG on valid, and all tried.

    Args:
      ranks: [N, Q] of valid.
      cutoffs: of the NDCG to choose by, and others to keep.
    """
    columns = np.ascontiguousarray(ranks.T)
    ndcg = {
      str(k): [metrics.ndcg(column, k) for column in columns] for k in cutoffs
    }
    best = int(np.argmax(ndcg[str(cutoffs[0])]))
    popularity, cf = self.pairs.T.tolist()
    tried = ground_file.Pairs(popularity, cf, ndcg)
    return injection.Gammas(*self.pairs[best].tolist()), tried
