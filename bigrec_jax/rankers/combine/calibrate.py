"""Choosing gamma on valid: the grids and rules of the published scripts.

Protocol `bigrec` (data/*/adjust_ci.py, adjust_pda.py): one gamma per metric
and K, the first that is strictly better than all before it; where the metric
is 0 at every gamma it stays at its initial -1, so that test is ranked by
(1 + w)^(+1). Protocol `single_gamma`: one gamma for everything, the first with
the best NDCG@20.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from bigrec_jax import config
from bigrec_jax.results import metrics

# What `bigrec` falls back to where no gamma has a metric above 0.
NO_GAMMA = -1.0

# The metric and cutoff of protocol `single_gamma`.
SINGLE_CUTOFF = 20


def parse_grid(text: str) -> np.ndarray:
  """Returns the gammas of `ground.gamma_grid`, ascending, each once.

  Args:
    text: the name of a published one, or numbers: "0,0.5,1".

  Raises:
    UserError: neither.
  """
  return np.unique(np.array(config.gammas(text), np.float64))


def curves(
  ranks: np.ndarray, cutoffs: Sequence[int]
) -> dict[str, dict[str, np.ndarray]]:
  """Returns {"ndcg": {"1": [G], ...}, "hr": {...}} of ranks [N, G]."""
  return {
    name: {
      str(k): np.array([metric(column, k) for column in ranks.T])
      for k in cutoffs
    }
    for name, metric in metrics.METRICS.items()
  }


def first_best(values: np.ndarray, gammas: np.ndarray) -> float:
  """Returns the published choice: strictly better than 0 and all before."""
  best = int(np.argmax(values))  # First of equals.
  return float(gammas[best]) if values[best] > 0 else NO_GAMMA


@dataclasses.dataclass(frozen=True)
class Choice:
  """Gammas chosen on valid under one protocol.

  Attributes:
    protocol: "bigrec" or "single_gamma".
    gamma: {"ndcg": {"1": gamma, ...}, "hr": {...}}; all equal for
      `single_gamma`.
  """

  protocol: str
  gamma: dict[str, dict[str, float]]

  @property
  def report(self) -> float | dict[str, dict[str, float]]:
    """As in metrics/ground_eval.json: a number or one per metric and K."""
    if self.protocol == "bigrec":
      return self.gamma
    return next(iter(self.gamma["ndcg"].values()))

  @property
  def gammas(self) -> list[float]:
    """The distinct gammas, ascending."""
    return sorted({g for part in self.gamma.values() for g in part.values()})


def choose(
  protocol: str,
  curve: dict[str, dict[str, np.ndarray]],
  gammas: np.ndarray,
  cutoffs: Sequence[int],
  hr_by_ndcg: bool,
) -> Choice:
  """Chooses gammas from the curves of valid.

  Args:
    protocol: "bigrec" or "single_gamma".
    curve: from `curves`, at all cutoffs and at SINGLE_CUTOFF.
    gammas: [G] ascending.
    cutoffs: those to choose for.
    hr_by_ndcg: choose HR's gammas by NDCG, as adjust_pda.py does by mistake
      (it calls get_ndcg for both while tuning).
  """
  if protocol == "single_gamma":
    # Where all are 0 any gamma is as good; the first is the mildest.
    best = float(gammas[np.argmax(curve["ndcg"][str(SINGLE_CUTOFF)])])
    return Choice(
      protocol,
      {name: {str(k): best for k in cutoffs} for name in metrics.METRICS},
    )
  source = {"ndcg": "ndcg", "hr": "ndcg" if hr_by_ndcg else "hr"}
  return Choice(
    protocol,
    {
      name: {
        str(k): first_best(curve[source[name]][str(k)], gammas) for k in cutoffs
      }
      for name in metrics.METRICS
    },
  )
