"""Rankers of collaborative filtering: a state of the user times an item's.

Letters: N users, n users of a block, D width, I items, C items of a block.
"""

import functools

import jax
import numpy as np

from bigrec_jax.cf import networks
from bigrec_jax.cf.factors import Factors
from bigrec_jax.cf.scores import FactorisedScores, Scores
from bigrec_jax.rankers import dense

Head = tuple[jax.Array | np.ndarray, jax.Array | np.ndarray]


def dot(queries: jax.Array, items: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Scores a block: [n, D] with ([C, D], [C]) to [n, C]."""
  kernel, bias = items
  scores = jax.lax.dot_general(
    queries,
    kernel,
    (((1,), (1,)), ((), ())),
    precision=jax.lax.Precision.HIGHEST,  # Ties and near ties decide ranks.
  )
  return scores + bias[None]


class Headed:
  """Ranks states that are on the devices under a network's head."""

  score = staticmethod(dot)

  def __init__(self, states: jax.Array, head: networks.Head):
    """Keeps the parts.

    Args:
      states: [>= N, D], whole blocks of users (`cf.states.Encoder`).
      head: of the network; rows past I are padding.
    """
    self._states, self._head = states, head
    self.width = states.shape[1]

  def queries(self, users: slice) -> jax.Array:
    """Returns the states [n, D] of a block of users."""
    return _slice(self._states, users.start, users.stop - users.start)

  def items(self) -> Head:
    """Returns kernel [>= I, D] and bias [>= I]."""
    return self._head.kernel, self._head.bias


class Factorised:
  """Ranks by host factors."""

  score = staticmethod(dot)

  def __init__(self, factors: Factors):
    """Keeps the factors."""
    self._factors = factors
    self.width = factors.states.shape[1]

  def queries(self, users: slice) -> np.ndarray:
    """Returns the states [n, D] of a block of users."""
    return np.asarray(self._factors.states[users], np.float32)

  def items(self) -> Head:
    """Returns kernel [I, D] and bias [I]."""
    items = self._factors.items
    return items, np.zeros(len(items), np.float32)


def of_scores(
  scores: Scores,
) -> Factorised | dense.Dense:
  """Returns the ranker of scores [N, I] as `cf.scores.load_scores` opens them.

  Factors stay factors: their items are streamed, and no row is ever whole.
  """
  if isinstance(scores, FactorisedScores):
    return Factorised(scores.factors)
  return dense.Dense(scores.__getitem__, scores.shape[1])


@functools.partial(jax.jit, static_argnums=2)
def _slice(states: jax.Array, start: jax.Array, size: int) -> jax.Array:
  return jax.lax.dynamic_slice_in_dim(states, start, size)
