"""From scores of candidates to rows: ranks, recall, MRR, NDCG, corrections.

Letters: N users, M candidates of a user, A titles.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from bigrec_jax.config import Config
from bigrec_jax.rankers import held_out
from bigrec_jax.results import clusters, metrics, rows
from bigrec_jax.tasks import protocol


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
  """What the users of a split choose from.

  Attributes:
    candidates: [N, M] titles.
    right: [N] the title that each took, among them once.
    owners: [N] whose rows these are (`Examples.owners`).
  """

  candidates: np.ndarray
  right: np.ndarray
  owners: np.ndarray

  def ranks(self, scores: np.ndarray) -> np.ndarray:
    """Returns how many candidates come before the right one, [N] int64.

    Equal scores are in catalogue order.

    Args:
      scores: [N, M].
    """
    right = self.right[:, None]
    place = np.argmax(self.candidates == right, axis=1)[:, None]
    own = np.take_along_axis(scores, place, axis=1)
    earlier = (scores == own) & (self.candidates < right)
    return np.count_nonzero((scores > own) | earlier, axis=1)


def corrected(
  system: str,
  asked: Mapping[str, Asked],
  after: Mapping[str, np.ndarray],
  alone: np.ndarray,
  weights: Sequence[float],
  config: Config,
) -> list[rows.TaskRow]:
  """Returns three rows a split: the score, less the bias, less a share of it.

  The share is chosen on valid by NDCG@20; a valid row of it is of users ranked
  by what others chose.

  Args:
    system: whose scores they are.
    asked: by split.
    after: scores [N, M] after histories, by split.
    alone: [A] scores after no history.
    weights: shares to choose from.
    config: cutoffs, bootstrap and seed.
  """

  def less(split: str, weight: float) -> np.ndarray:
    own = alone[asked[split].candidates]
    scores = after[split] - np.float32(weight) * own
    return asked[split].ranks(scores)

  valid = [less("valid", weight) for weight in weights]
  choice = held_out.choose(valid, asked["valid"].owners, config.seed)
  weight = weights[choice.place]
  found = []
  for split in protocol.SPLITS:
    chosen = choice.ranks if split == "valid" else less(split, weight)
    for name, taken, ranks in (
      (system, 0.0, less(split, 0.0)),
      (f"{system}, less bias", 1.0, less(split, 1.0)),
      (f"{system}, less bias by valid", weight, chosen),
    ):
      settings = {"bias weight": taken}
      users = clusters.of_owners(asked[split].owners)
      found.append(of_ranks(split, name, ranks, config, users, settings))
  return found


def row(
  split: str, system: str, asked: Asked, scores: np.ndarray, config: Config
) -> rows.TaskRow:
  """Returns the row of scores [N, M]."""
  users = clusters.of_owners(asked.owners)
  return of_ranks(split, system, asked.ranks(scores), config, users)


def of_ranks(
  split: str,
  system: str,
  ranks: np.ndarray,
  config: Config,
  users: clusters.Clusters | None,
  settings: Mapping[str, float] | None = None,
) -> rows.TaskRow:
  """Measures ranks [N]; what else is known of a system stands behind.

  `published ndcg` is LMRecSys's (utils.py, dcg_at_k by method 0): the second
  place is worth as much as the first.
  """
  values: dict[str, float] = {}
  intervals: dict[str, Sequence[float]] = {}
  seed, draws = config.seed, config.ground.bootstrap_samples
  for k in config.ground.cutoffs:
    for name, known, metric in (
      ("recall", "hr", metrics.hit_rate),
      ("mrr", "mrr", metrics.mrr),
      ("ndcg", "ndcg", metrics.ndcg),
    ):
      values[f"{name}@{k}"] = metric(ranks, k)
      intervals[f"{name}@{k}"] = metrics.ci95(
        ranks, known, k, draws, seed, users
      )
    values[f"published ndcg@{k}"] = published_ndcg(ranks, k)
  values |= settings or {}
  about = values, intervals, len(ranks), [seed], clusters.count(users)
  return rows.TaskRow(split, system, *about, {"rank": ranks})


def published_ndcg(ranks: np.ndarray, k: int) -> float:
  """Returns the mean of 1 at ranks 0 and 1, then 1 / log2(rank + 1)."""
  gains = 1.0 / np.log2(np.maximum(ranks, 1) + 1.0)
  return float(np.mean(np.where(ranks < k, gains, 0.0)))
