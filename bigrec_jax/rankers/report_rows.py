"""From ranks to rows of metrics, with intervals over users."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bigrec_jax.config import GroundConfig
from bigrec_jax.rankers.combine import calibrate
from bigrec_jax.results import clusters, metrics, rows


def of_ranks(
  ranks: np.ndarray,
  config: GroundConfig,
  seed: int,
  *,
  name: str,
  split: str,
  users: clusters.Clusters | None,
) -> rows.BaselineRow:
  """Returns the row of metrics of any ranker.

  Args:
    ranks: [N].
    config: has cutoffs and bootstrap samples.
    seed: of the bootstrap.
    name: of the ranker.
    split: valid or test.
    users: whose rows these are, where somebody has several.
  """
  found = metrics.summarise(ranks, config.cutoffs)
  interval = metrics.summarise_ci95(
    ranks, config.cutoffs, config.bootstrap_samples, seed, users
  )
  return rows.BaselineRow(name, split, **found, ci95=interval)


def of_choice(
  choice: calibrate.Choice,
  ranks: Mapping[float, np.ndarray],
  config: GroundConfig,
  seed: int,
  users: clusters.Clusters | None,
) -> dict[str, Any]:
  """Returns ndcg, hr and ci95 of an injection at the gammas chosen for each.

  Args:
    choice: a gamma for each metric and cutoff.
    ranks: [N] by gamma.
    config: as of `of_ranks`.
    seed: of the bootstrap.
    users: as of `of_ranks`.
  """
  row: dict[str, Any] = {"ndcg": {}, "hr": {}, "ci95": {"ndcg": {}, "hr": {}}}
  for name, metric in metrics.METRICS.items():
    for k in config.cutoffs:
      own = ranks[choice.gamma[name][str(k)]]
      row[name][str(k)] = metric(own, k)
      row["ci95"][name][str(k)] = metrics.ci95(
        own, name, k, config.bootstrap_samples, seed, users
      )
  return row
