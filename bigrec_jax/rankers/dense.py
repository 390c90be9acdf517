"""Rankers whose scores somebody else computes, a block of users at a time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def look_up(queries: jax.Array, items: jax.Array) -> jax.Array:
  """Reads a block from whole rows: [n, I] with [C] item numbers to [n, C]."""
  return jnp.take(queries, items, axis=1)


class Dense:
  """Ranks by whole rows of scores, made on the host or read from a file.

  What is dense anyway (BM25 of a query, neighbours of a history, a file of
  scores) becomes a `protocol.Ranker` by this.
  """

  score = staticmethod(look_up)

  def __init__(self, read: Callable[[slice], np.ndarray], num_items: int):
    """Keeps what reads the scores.

    Args:
      read: users to float32 [n, I]; the slice may end behind the last user.
      num_items: I.
    """
    self._read = read
    self._num_items = num_items

  @property
  def width(self) -> int:
    """I."""
    return self._num_items

  def queries(self, users: slice) -> np.ndarray:
    """Returns the scores [n, I] of a block of users."""
    return np.asarray(self._read(users), np.float32)

  def items(self) -> np.ndarray:
    """Returns the item numbers [I]."""
    return np.arange(self._num_items, dtype=np.int32)
