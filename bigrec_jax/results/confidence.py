"""How surely a list holds what its user takes next, as valid taught it.

A few signs of what was written for a user (is it a title, how far is it from
the nearest one, how probable is it, does CF agree) make the chance that the
target is among the first k: a ridge logistic regression for each cutoff k,
fitted on the ranks of valid. The same ranks say from which distance on a list
by CF or popularity alone is the better one.

Letters: N users, F signs, C cutoffs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from bigrec_jax.results import significance
from bigrec_jax.workdir import fields

SIGNS = ("exact", "distance", "probability", "agreement", "cold")
# Names beside those of injections and systems: lists by one part alone.
ALONE = {"cf": "alone: cf", "popularity": "alone: popularity"}
_RIDGE = 1.0  # Of weights of standardised signs: a user's worth of doubt.
_STEPS = 30  # Newton's; it converges in a few.
# By which a list alone is compared with the text's.
_BY = significance.Question("ndcg", 20)
_QUANTILES = np.arange(0.0, 0.96, 0.05)  # Distances that are tried.
# Standard errors that the gain must be above 0: forty distances are tried.
_SURE = 3.0
_FEWEST = 20  # Users who say anything.
_HALFWAY = 0.5  # Far, where valid has too few inexact texts to say.
_BINS = 10


class Signs(NamedTuple):
  """What is seen of N users before anybody knows what they take.

  Attributes:
    exact: [N] bool, the first text is a title of the catalogue.
    distance: [N] of the nearest item, as a share of the farthest's.
    log_prob: [N] score of the first text, NaN where it has none.
    place: [N] int, CF's place of the nearest item, from 0; -1 where CF knows
      nothing of the user or isn't there.
    cold: [N] bool, CF is there and knows nothing of the user.
  """

  exact: np.ndarray
  distance: np.ndarray
  log_prob: np.ndarray
  place: np.ndarray
  cold: np.ndarray

  def matrix(self) -> np.ndarray:
    """Returns the signs as numbers from 0 to 1 [N, F]."""
    known = np.isfinite(self.log_prob)
    log_prob = np.where(known, np.minimum(self.log_prob, 0.0), -np.inf)
    place = np.maximum(self.place, 0)
    columns = [
      self.exact,
      np.where(self.exact, 0.0, self.distance),
      np.exp(log_prob),
      np.where(self.place >= 0, 1.0 / np.log2(place + 2.0), 0.0),
      self.cold,
    ]
    return np.stack(columns, axis=1).astype(np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class Confidence:
  """The chance that a target is among the first k of a list.

  Attributes:
    cutoffs: [C] ascending.
    intercepts: [C].
    weights: [C, F].
    far: distance beyond which a text that is no title has no part in a list.
    tested: what it says of test, and what is so, by cutoff; for the report.
  """

  cutoffs: np.ndarray
  intercepts: np.ndarray
  weights: np.ndarray
  far: float = np.inf
  tested: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __call__(self, signs: Signs, k: int) -> np.ndarray:
    """Returns the chances [N] of lists of k items.

    Between two cutoffs it goes with log k; below the first with k. Beyond the
    last it stays: that was measured, and a longer list holds no less.
    """
    logits = self.intercepts + _product(
      "nf,cf->nc", signs.matrix(), self.weights
    )
    found = np.maximum.accumulate(_sigmoid(logits), axis=1)
    after = int(np.searchsorted(self.cutoffs, k))
    if after == len(self.cutoffs):
      return found[:, -1]
    if after == 0:
      return found[:, 0] * (k / self.cutoffs[0])
    low, high = self.cutoffs[after - 1 : after + 1]
    share = np.log(k / low) / np.log(high / low)
    return (1 - share) * found[:, after - 1] + share * found[:, after]

  def is_far(self, signs: Signs) -> np.ndarray:
    """Returns [N] bool: the text is no title and far from all of them."""
    return ~signs.exact & (signs.distance > self.far)

  def to_json(self) -> dict[str, Any]:
    """Returns what `from_json` reads."""
    return {
      "signs": list(SIGNS),
      "cutoffs": self.cutoffs.tolist(),
      "intercepts": self.intercepts.tolist(),
      "weights": self.weights.tolist(),
      **({"far": self.far} if np.isfinite(self.far) else {}),
      "tested": dict(self.tested),
    }

  @classmethod
  def from_json(cls, value: Any, where: str) -> Self:
    """Reads an object; raises UserError where it isn't one."""
    found = fields.Fields(value, where)
    numbers = fields.sequence(fields.number)
    cutoffs = np.array(found.get("cutoffs", fields.sequence(fields.count)))
    intercepts = np.array(found.get("intercepts", numbers), np.float64)
    weights = np.array(
      found.get("weights", fields.sequence(numbers)), np.float64
    )
    shape = len(cutoffs), len(SIGNS)
    if len(intercepts) != shape[0] or weights.shape != shape:
      raise fields.refuse(
        fields.inside(where, "weights"),
        list(weights.shape),
        f"{list(shape)} numbers",
      )
    far = found.optional("far", fields.number, np.inf)
    return cls(
      cutoffs,
      intercepts,
      weights,
      far,
      found.optional("tested", fields.of_object, {}),
    )


def fit(
  signs: Signs, ranks: np.ndarray, cutoffs: Sequence[int], far: float = np.inf
) -> Confidence:
  """Returns the confidence that ranks of valid teach.

  Where nobody, or everybody, has the target among the first k, half a user
  with it and half a user without keep the chance from 0 and 1.

  Args:
    signs: of N users.
    ranks: [N], exact below the largest cutoff.
    cutoffs: lengths of lists.
    far: see `Confidence`.
  """
  matrix = signs.matrix()
  mean, spread = matrix.mean(axis=0), matrix.std(axis=0)
  spread = np.where(spread > 1e-9, spread, 1.0)
  rows = np.concatenate([(matrix - mean) / spread, np.zeros((2, len(SIGNS)))])
  weight = np.append(np.ones(len(matrix)), [0.5, 0.5])
  design = np.concatenate([np.ones((len(rows), 1)), rows], axis=1)
  intercepts, weights = [], []
  for k in sorted(cutoffs):
    hits = np.append(ranks < k, [True, False]).astype(np.float64)
    found = _newton(design, hits, weight)
    own = found[1:] / spread
    weights.append(own)
    intercepts.append(found[0] - own @ mean)
  return Confidence(
    np.array(sorted(cutoffs)), np.array(intercepts), np.array(weights), far
  )


def _newton(
  design: np.ndarray, hits: np.ndarray, weight: np.ndarray
) -> np.ndarray:
  """Returns the ridge logistic regression's coefficients, intercept first."""
  found = np.zeros(design.shape[1])
  ridge = np.full(len(found), _RIDGE)
  ridge[0] = 0.0
  rate = (weight * hits).sum() / weight.sum()
  found[0] = np.log(rate / (1 - rate))
  for _ in range(_STEPS):
    chance = _sigmoid(_product("nf,f->n", design, found))
    errors_of = weight * (chance - hits)
    gradient = _product("nf,n->f", design, errors_of) + ridge * found
    curvature = weight * chance * (1 - chance)
    scaled = design * curvature[:, None]
    hessian = _product("nf,ng->fg", scaled, design) + np.diag(ridge)
    step = np.linalg.solve(hessian + 1e-9 * np.eye(len(found)), gradient)
    found -= step * min(1.0, 4.0 / max(np.abs(step).max(), 1e-30))
    if np.abs(step).max() < 1e-9:
      break
  return found


def _product(indices: str, *factors: np.ndarray) -> np.ndarray:
  """Returns a sum of products, the same bits on every machine's threads.

  BLAS may cut a sum differently from run to run, and files are compared.
  """
  return np.einsum(indices, *factors, optimize=False)


def _sigmoid(x: np.ndarray) -> np.ndarray:
  return 1.0 / (1.0 + np.exp(-np.clip(x, -60.0, 60.0)))


def far_distance(
  signs: Signs, ranks: np.ndarray, alone: np.ndarray | None
) -> float:
  """Returns the distance beyond which a list without the text is better.

  That is the distance with the largest gain of NDCG@20 on valid, if it is
  beyond doubt; else the largest that valid has, as nothing is known of texts
  still farther away; where valid has hardly an inexact text, half way.

  Args:
    signs: of N users.
    ranks: [N] of lists with the text.
    alone: [N] of lists by CF or popularity alone; None = there are none.
  """
  loose = ~signs.exact
  if loose.sum() < _FEWEST:
    return _HALFWAY
  distances = signs.distance[loose]
  best, found = 0.0, float(distances.max())
  if alone is None:
    return found
  gain = significance.gains(alone, _BY) - significance.gains(ranks, _BY)
  for least in [-1.0, *np.quantile(distances, _QUANTILES).tolist()]:
    own = gain[loose][distances > least]
    if len(own) < _FEWEST:
      break
    error = own.std() / np.sqrt(len(own))
    if own.sum() > best and own.mean() > _SURE * error:
      best, found = float(own.sum()), float(least)
  return found


def tested(
  found: Confidence, signs: Signs, ranks: np.ndarray
) -> dict[str, dict[str, float]]:
  """Returns what a confidence says of users, and what is so, by cutoff.

  `says` and `is` are means; `error` is the mean difference of the two over
  ten bins of equal numbers of users (expected calibration error).

  Args:
    found: fitted on other users.
    signs: of N users.
    ranks: [N].
  """
  result = {}
  for k in found.cutoffs.tolist():
    chance, hits = found(signs, k), (ranks < k).astype(np.float64)
    order = np.argsort(chance, kind="stable")
    bins = [part for part in np.array_split(order, _BINS) if len(part)]
    off = sum(abs((chance[b] - hits[b]).sum()) for b in bins) / len(hits)
    result[str(k)] = {
      "says": float(chance.mean()),
      "is": float(hits.mean()),
      "error": float(off),
    }
  return result
