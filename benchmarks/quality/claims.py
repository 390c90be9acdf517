"""The paper's claims as questions that the cells answer, with paired tests.

Letters: S seeds, N rows, K cutoff. A system is its ranks on test, [S, N]. Where
a user has several rows, `users` says whose they are: users are then drawn, and
change sign, with all their rows (bigrec_jax/results/clusters.py).
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.quality import cells
from bigrec_jax.results import clusters, significance

EFFORT = significance.Effort(
  bootstrap_samples=10_000, permutations=10_000, seed=0
)
LEVEL = 0.05
Users = clusters.Clusters | None
_LARGE, _SMALL = 50, 5


@dataclasses.dataclass(frozen=True)
class Answer:
  """One paired test.

  Attributes:
    name: what is compared with what.
    k: cutoff.
    difference: of HR@K, or what the question asks.
    ci95: of it.
    p: two-sided.
    p_holm: corrected for all tests of the question and data set.
  """

  name: str
  k: int
  difference: float
  ci95: tuple[float, float]
  p: float
  p_holm: float = float("nan")

  @property
  def is_larger(self) -> bool:
    """Whether the first is better beyond chance."""
    return self.difference > 0 and self.p_holm < LEVEL

  @property
  def is_smaller(self) -> bool:
    """Whether the first is worse beyond chance."""
    return self.difference < 0 and self.p_holm < LEVEL


def hits(ranks: np.ndarray, k: int) -> np.ndarray:
  """Returns what each row adds to HR@K, [S, N] float64."""
  return significance.gains(ranks, significance.Question("hr", k))


def interval(
  ranks: np.ndarray, k: int, users: Users = None
) -> tuple[float, float]:
  """Returns the 95 % interval of HR@K over users, and seeds if several."""
  return interval_of(hits(ranks, k), users)


def interval_of(gains: np.ndarray, users: Users = None) -> tuple[float, float]:
  """Returns the 95 % interval of a mean of [S, N] over users and seeds."""
  zeros = np.zeros_like(gains)
  return significance.compare_gains(gains, zeros, EFFORT, users).ci95


def answer(
  name: str, k: int, a: np.ndarray, b: np.ndarray, users: Users = None
) -> Answer:
  """Compares what rows add by a, [S, N], with what they add by b, [S', N]."""
  found = significance.compare_gains(a, b, EFFORT, users)
  return Answer(name, k, found.difference, found.ci95, found.p)


def corrected(answers: Sequence[Answer]) -> list[Answer]:
  """Returns answers with Holm's correction over all of them."""
  raised = significance.holm([answer.p for answer in answers])
  return [
    dataclasses.replace(answer, p_holm=p)
    for answer, p in zip(answers, raised, strict=True)
  ]


def against(
  ranks: np.ndarray, others: Mapping[str, np.ndarray], users: Users = None
) -> list[Answer]:
  """Compares one system with others, at every cutoff.

  Args:
    ranks: [S, N] of the first.
    others: [S', N] of the same rows by name.
    users: whose rows they are; None = each is another user's.
  """
  return corrected(
    [
      answer(name, k, hits(ranks, k), hits(other, k), users)
      for name, other in others.items()
      for k in cells.CUTOFFS
    ]
  )


def grows(
  plain: np.ndarray,
  injected: Mapping[str, np.ndarray],
  users: Users = None,
) -> list[Answer]:
  """Asks whether injections add more hits at K = 50 than at K = 5.

  The difference is that of what they add: (injected - plain at 50) less
  (injected - plain at 5).

  Args:
    plain: [S, N].
    injected: [S, N] of the same seeds by name.
    users: whose rows they are; None = each is another user's.
  """
  found = []
  for name, other in injected.items():
    large = hits(other, _LARGE) - hits(plain, _LARGE)
    small = hits(other, _SMALL) - hits(plain, _SMALL)
    # Of one run: seeds of the two stay together.
    each = significance.compare_gains(
      large - small, np.zeros_like(large), EFFORT, users
    )
    found.append(Answer(name, _LARGE, each.difference, each.ci95, each.p))
  return corrected(found)


def moved(plain: np.ndarray, injected: np.ndarray) -> int:
  """Returns at how many (seed, user) pairs a hit at 1 comes or goes."""
  return int(np.count_nonzero((plain == 0) != (injected == 0)))


def verdict(answers: Sequence[Answer]) -> str:
  """Returns what all tests of a question say together."""
  if all(answer.is_larger for answer in answers):
    return "holds"
  if any(answer.is_smaller for answer in answers):
    return "does not hold"
  if any(answer.is_larger for answer in answers):
    return "holds in part"
  return "not shown"


def direction(answers: Sequence[Answer]) -> str:
  """Returns at which cutoffs the first is better, or worse, beyond chance."""
  found = {
    "better": [str(a.k) for a in answers if a.is_larger],
    "worse": [str(a.k) for a in answers if a.is_smaller],
  }
  said = [f"{how} at {', '.join(ks)}" for how, ks in found.items() if ks]
  return "; ".join(said) or "not shown"
