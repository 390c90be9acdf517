"""Intervals as the report shows them: never one of no width.

A bootstrap over users who are all missed draws nothing but misses, so its
interval would be the point 0. There, and where all are hit, the interval of
the hit rate is the exact binomial one (Clopper and Pearson 1934, Biometrika
26); a user's gain in NDCG lies between 0 and their hit, so without any hit the
same interval holds for NDCG, if more cautiously.
"""

from collections.abc import Sequence

import numpy as np

from bigrec_jax.results import clusters, metrics

Interval = Sequence[float]


def exact(hits: int, count: int) -> tuple[float, float]:
  """Returns the exact 95 % interval of a share.

  Args:
    hits: users hit.
    count: all users, at least one.
  """
  from scipy import stats  # Slow to import.

  found = stats.binomtest(hits, count).proportion_ci(0.95, method="exact")
  return float(found.low), float(found.high)


def of_value(
  metric: str, value: float, count: int | None, known: Interval | None
) -> Interval | None:
  """Returns the interval of a metric's value, None where nobody knows it.

  Args:
    metric: hr or ndcg.
    value: of it.
    count: users (not their rows: who has several is one draw); None = not
      known.
    known: the bootstrap's, where it was made.
  """
  wide = known is not None and known[1] > known[0]
  if wide or not count:
    return known
  if value == 0:
    return exact(0, count)
  hits = value * count
  whole = abs(hits - round(hits)) < 1e-6 * max(1.0, hits)
  if metric == "hr" and whole:  # Else a mean over seeds.
    return exact(round(hits), count)
  return known


def of_ranks(
  ranks: np.ndarray,
  metric: str,
  k: int,
  samples: int,
  users: clusters.Clusters | None = None,
) -> Interval:
  """Returns the interval of a metric of ranks [N], at least one.

  Args:
    ranks: of the rows.
    metric: hr or ndcg.
    k: cutoff.
    samples: of the bootstrap.
    users: whose rows these are, where somebody has several.
  """
  value = metrics.METRICS[metric](ranks, k)
  drawn = metrics.ci95(ranks, metric, k, samples, 0, users)
  count = len(ranks) if users is None else len(users)
  return of_value(metric, value, count, drawn) or drawn
