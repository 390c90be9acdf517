"""HR@K and NDCG@K from ranks, with bootstrap intervals over users.

One relevant item per row, so Recall@K is HR@K and the ideal DCG is 1. A rank
is the number of items before the target: 0 is best.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bigrec_jax.results import clusters

_MOST_DRAWN = 1 << 24  # Numbers of bootstrap samples at a time.


def hit_rate(ranks: np.ndarray, k: int) -> float:
  """Returns the share of users whose target is among the first k.

  Args:
    ranks: [N] integers, at least one.
    k: cutoff.
  """
  ranks = _checked(ranks)
  return float(np.count_nonzero(ranks < k) / len(ranks))


def ndcg(ranks: np.ndarray, k: int) -> float:
  """Returns the mean of 1 / log2(rank + 2) over users, 0 from rank k on.

  Summed in the order of the users, as a loop over them would: which gamma is
  strictly best may hang on the last bit (BIGRec data/*/adjust_ci.py sums
  1 / ln(rank + 2) and divides by 1 / ln 2 at the end; so does this).

  Args:
    ranks: [N] integers, at least one.
    k: cutoff.
  """
  ranks = _checked(ranks)
  hits = ranks[ranks < k]
  if not hits.size:
    return 0.0
  gains = np.array([1.0 / math.log(rank + 2) for rank in range(hits.max() + 1)])
  # np.sum adds in pairs; accumulate adds from left to right.
  total = np.add.accumulate(gains[hits])[-1]
  return float(total / len(ranks) / (1.0 / math.log(2)))


def mrr(ranks: np.ndarray, k: int) -> float:
  """Returns the mean of 1 / (rank + 1) over users, 0 from rank k on.

  Args:
    ranks: [N] integers, at least one.
    k: cutoff.
  """
  ranks = _checked(ranks)
  return float(np.mean(np.where(ranks < k, 1.0 / (ranks + 1.0), 0.0)))


def mean_reciprocal_rank(ranks: np.ndarray) -> float:
  """Returns the mean of 1 / (rank + 1)."""
  return float(np.mean(1.0 / (_checked(ranks) + 1.0)))


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> float:
  """Returns the area under the ROC curve.

  The share of pairs of a positive and a negative in which the positive scores
  higher, pairs with equal scores counted by half; by ranks (Mann-Whitney), in
  whole and half numbers, so exactly.

  Args:
    labels: [N] bool.
    scores: [N], higher = more likely positive.

  Returns:
    NaN where one of the classes is missing.
  """
  labels = np.asarray(labels, np.bool_)
  positives = int(labels.sum())
  negatives = len(labels) - positives
  if not positives or not negatives:
    return math.nan
  _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
  # From 1, the mean of the places that equal scores share.
  ranks = np.cumsum(count) - (count - 1) / 2  # [distinct]
  won = ranks[place][labels].sum() - positives * (positives + 1) / 2
  return float(won / (positives * negatives))


METRICS = {"ndcg": ndcg, "hr": hit_rate}


def summarise(
  ranks: np.ndarray, cutoffs: Sequence[int]
) -> dict[str, dict[str, float]]:
  """Returns {"ndcg": {"1": value, ...}, "hr": {...}} for every cutoff."""
  return {
    name: {str(k): metric(ranks, k) for k in cutoffs}
    for name, metric in METRICS.items()
  }


def ci95(
  ranks: np.ndarray,
  metric: str,
  k: int,
  samples: int,
  seed: int,
  users: clusters.Clusters | None = None,
) -> list[float]:
  """Returns the 95 % percentile bootstrap interval of a metric over users.

  Drawing N users with replacement is drawing how many of them have each rank,
  so one multinomial over k + 1 classes (ranks below k, the rest) is a sample;
  its cost doesn't grow with N.

  Args:
    ranks: [N] integers, at least one.
    metric: "ndcg", "hr" or "mrr".
    k: cutoff.
    samples: bootstrap samples, at least 1.
    seed: of numpy's default generator.
    users: whose rows these are, where somebody has several: then users are
      drawn, with all their rows. None = each row is a user.

  Returns:
    [low, high].
  """
  ranks = _checked(ranks)
  # Nobody has a rank beyond the last, so more classes would never be drawn.
  k = min(k, int(ranks.max()) + 1)
  counts = np.bincount(np.minimum(ranks, k), minlength=k + 1)
  gain = np.zeros(k + 1)
  if metric == "mrr":
    gain[:k] = 1.0 / (np.arange(k) + 1.0)
  else:
    gain[:k] = 1.0 if metric == "hr" else 1.0 / np.log2(np.arange(k) + 2.0)
  if users is not None:
    own = gain[np.minimum(ranks, k)]
    return list(users.interval(own, samples, seed))
  rng = np.random.default_rng(seed)
  step = max(1, _MOST_DRAWN // (k + 1))
  values = np.concatenate(
    [
      rng.multinomial(
        len(ranks), counts / len(ranks), size=min(step, samples - start)
      )
      @ gain
      for start in range(0, samples, step)
    ]
  )
  low, high = np.percentile(values / len(ranks), [2.5, 97.5])
  return [float(low), float(high)]


def bootstrap_ci95(
  statistic: Callable[[np.ndarray], float],
  count: int,
  samples: int,
  seed: int,
  users: clusters.Clusters | None = None,
) -> list[float]:
  """Returns the 95 % percentile bootstrap interval of any statistic.

  For what isn't a mean of per-user gains, such as ROC-AUC; of ranks `ci95` is
  faster.

  Args:
    statistic: of the examples with these numbers [count], drawn with
      replacement; NaN where a draw has none (one class only), left out.
    count: examples, at least one.
    samples: bootstrap samples, at least 1.
    seed: of numpy's default generator.
    users: as of `ci95`.

  Returns:
    [low, high]; NaN twice where no draw has the statistic.
  """
  rng = np.random.default_rng(seed)
  units = count if users is None else len(users)
  draws = []
  for _ in range(samples):
    drawn = rng.integers(0, units, size=units)
    draws.append(statistic(drawn if users is None else users.rows_of(drawn)))
  found = np.array(draws, np.float64)
  found = found[~np.isnan(found)]
  if not found.size:
    return [math.nan, math.nan]
  low, high = np.percentile(found, [2.5, 97.5])
  return [float(low), float(high)]


def summarise_ci95(
  ranks: np.ndarray,
  cutoffs: Sequence[int],
  samples: int,
  seed: int,
  users: clusters.Clusters | None = None,
) -> dict[str, Any]:
  """Returns {"ndcg": {"1": [low, high], ...}, "hr": {...}} of `ci95`."""
  return {
    name: {str(k): ci95(ranks, name, k, samples, seed, users) for k in cutoffs}
    for name in METRICS
  }


def _checked(ranks: np.ndarray) -> np.ndarray:
  ranks = np.asarray(ranks)
  if ranks.ndim != 1 or not ranks.size:
    raise ValueError(f"{ranks.shape=}, a vector of at least one expected")
  if ranks.dtype.kind not in "iu" or ranks.min() < 0:
    raise ValueError(f"{ranks.dtype=} {ranks.min()=}, counts from 0 expected")
  return ranks
