"""Several rankers made into one: their scores, put on one scale and added.

Each part's scores of a user go from 0 to 1 (min-max over the catalogue, as
injection treats CF scores), and valid chooses the weights.

Letters: N users, n users of a block, I items, K parts.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigrec_jax.rankers import counting, dense, engine, protocol
from bigrec_jax.rankers.combine import calibrate
from bigrec_jax.results import metrics
from bigrec_jax.workdir import parts as parts_lib

_STEPS = 10  # Weights are tenths.
# A block of users to their scores [n, I] float32.
_ReadRows = Callable[[slice], np.ndarray]


class WeightedSum:
  """A `protocol.Combiner`: sums of min-max scores, weights chosen on valid.

  Attributes:
    weights: [K], which add up to 1; empty before `fit`.
    tried: how many settings valid chose from.
  """

  def __init__(
    self,
    mesh: Mesh,
    *,
    most_users: int,
    groups: np.ndarray,
    weights: Sequence[float] = (),
    once: parts_lib.Once = parts_lib.at_once,
  ):
    """Says where and how ranks are counted while weights are chosen.

    Args:
      mesh: all its devices share the items.
      most_users: of a block.
      groups: [I] int32, rows that count as one target.
      weights: of a combiner that is fitted already.
      once: knows the ranks of weights that were tried before a kill.
    """
    self.weights = tuple(weights)
    self.tried = 0
    self._mesh, self._most_users, self._groups = mesh, most_users, groups
    self._once = once

  def fit(self, parts: Sequence[protocol.Ranker], targets: np.ndarray) -> Self:
    """Chooses the weights by valid NDCG@20; the first of equally good ones.

    Tenths are tried that add up to 1, those of the first part ascending, so
    each part alone is among them.

    Args:
      parts: over the users of valid.
      targets: [N] catalogue rows.
    """
    ranks_of = engine.Ranks(
      targets,
      len(self._groups),
      self._mesh,
      most_users=self._most_users,
      groups=self._groups,
    )
    settings, rows = _tenths(len(parts)), [_rows_of(part) for part in parts]
    ndcg = []
    for one in settings:
      ranks = engine.ranks_once(
        self._once, f"weights {one}", ranks_of, self._sum(rows, one)
      )
      ndcg.append(metrics.ndcg(ranks, calibrate.SINGLE_CUTOFF))
    self.weights, self.tried = settings[int(np.argmax(ndcg))], len(settings)
    return self

  def __call__(self, parts: Sequence[protocol.Ranker]) -> dense.Dense:
    """Returns the ranker of the sum, over the users of the parts."""
    if len(parts) != len(self.weights):
      raise ValueError(f"{len(parts)} parts, {len(self.weights)} expected")
    return self._sum([_rows_of(part) for part in parts], self.weights)

  def _sum(
    self, rows: Sequence[_ReadRows], weights: Sequence[float]
  ) -> dense.Dense:
    used = [pair for pair in zip(weights, rows, strict=True) if pair[0]]

    def read(users: slice) -> np.ndarray:
      return np.sum(
        [np.float32(weight) * _from_0_to_1(row(users)) for weight, row in used],
        axis=0,
      )

    return dense.Dense(read, len(self._groups))


def _tenths(parts: int) -> list[tuple[float, ...]]:
  """Returns all weights [K] in tenths that add up to 1."""
  return [
    tuple(step / _STEPS for step in steps)
    for steps in itertools.product(range(_STEPS + 1), repeat=parts)
    if sum(steps) == _STEPS
  ]


def _rows_of(part: protocol.Ranker) -> _ReadRows:
  """Returns what reads whole rows [n, I] of a ranker's scores."""
  items = jax.tree.map(jnp.asarray, part.items())

  def read(users: slice) -> np.ndarray:
    queries = jax.tree.map(jnp.asarray, part.queries(users))
    return np.asarray(_scored(part.score, queries, items), np.float32)

  return read


@functools.partial(jax.jit, static_argnames="score")
def _scored(score: counting.ScoreFn, queries, items) -> jax.Array:
  return score(queries, items)


def _from_0_to_1(scores: np.ndarray) -> np.ndarray:
  """Returns min-max scores [n, I]; 0 where all are equal."""
  low = scores.min(axis=1, keepdims=True)
  span = scores.max(axis=1, keepdims=True) - low
  return (scores - low) / np.where(span > 0, span, np.float32(1))
