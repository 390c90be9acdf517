"""One of a few settings, chosen on valid, and how the choice ranks others.

The users that chose a setting flatter it. So each fold of whole users is ranked
by what the other folds choose (cross-validation): a row of valid that may be
compared with those of a fitted fusion, and of what has nothing to choose.

Letters: G settings, N users.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bigrec_jax.rankers.combine import calibrate, fusion_fit
from bigrec_jax.results import metrics


class Choice(NamedTuple):
  """What all users choose, and the places of each by what others choose.

  Attributes:
    place: of the setting with the best NDCG@20, the first of equals.
    ndcg: [G] NDCG@20 of every setting on all users.
    ranks: [N] int32, of each fold by the setting that the others like best.
  """

  place: int
  ndcg: Sequence[float]
  ranks: np.ndarray

  @property
  def held_out(self) -> float:
    """NDCG@20 of `ranks`."""
    return _ndcg(self.ranks)


def choose(
  ranks: Sequence[np.ndarray], owners: np.ndarray, seed: int
) -> Choice:
  """Chooses one of the settings.

  Args:
    ranks: [G][N] places of the targets by every setting.
    owners: [N] whose rows these are: one owner's are never in two folds.
    seed: of the folds. A single owner has nobody else to choose: that is the
      first setting.
  """
  table = np.stack(ranks)  # [G, N]
  folds = fusion_fit.folds_of(owners, seed)
  found = np.empty_like(table[0])
  for fold in range(int(folds.max()) + 1):
    own = folds == fold
    found[own] = table[0 if own.all() else _best(table[:, ~own]), own]
  values = [_ndcg(row) for row in table]
  return Choice(int(np.argmax(values)), values, found.astype(np.int32))


def _best(table: np.ndarray) -> int:
  return int(np.argmax([_ndcg(row) for row in table]))


def _ndcg(ranks: np.ndarray) -> float:
  return metrics.ndcg(ranks, calibrate.SINGLE_CUTOFF)
