"""Rankers that know nothing of the user: popularity, and chance.

Letters: n users of a block, I items, C items of a block.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bigrec_jax.devices import noise


def _same_for_all(queries: jax.Array, items: jax.Array) -> jax.Array:
  return jnp.broadcast_to(items[None], (len(queries), len(items)))


class MostPopular:
  """Ranks everybody's items by how often they were taken."""

  score = staticmethod(_same_for_all)
  width = 1

  def __init__(self, popularity: np.ndarray):
    """Orders the items.

    Args:
      popularity: [I] counts, of which up to 2**24 may differ.
    """
    # Only the order matters: small whole numbers are exact in float32.
    _, order = np.unique(
      np.asarray(popularity, np.float64), return_inverse=True
    )
    self._order = order.astype(np.float32)

  def queries(self, users: slice) -> np.ndarray:
    """Returns a row of nothing [n] for each user."""
    return np.zeros(users.stop - users.start, np.float32)

  def items(self) -> np.ndarray:
    """Returns [I], the more popular the higher."""
    return self._order


def _draw(queries: jax.Array, items: jax.Array) -> jax.Array:
  bits = noise.at(queries[:, None], items[None])
  # As many bits as a float32 has.
  return (bits >> jnp.uint32(8)).astype(jnp.float32)


class Random:
  """Ranks each user's items in a random order of their own."""

  score = staticmethod(_draw)
  width = 1

  def __init__(self, num_items: int, seed: int):
    """Keeps what the orders depend on.

    Args:
      num_items: I.
      seed: of all orders; a user's depends on it and on the user's place.
    """
    self._num_items, self._seed = num_items, seed

  def queries(self, users: slice) -> np.ndarray:
    """Returns the seeds [n] of a block of users."""
    own = np.arange(users.start, users.stop, dtype=np.uint32)
    seed = np.uint32(self._seed & 0xFFFFFFFF)
    return np.asarray(noise.fold(jnp.asarray(seed), jnp.asarray(own)))

  def items(self) -> np.ndarray:
    """Returns the item numbers [I]."""
    return np.arange(self._num_items, dtype=np.uint32)
