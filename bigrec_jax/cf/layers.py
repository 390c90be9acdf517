"""Pieces that the networks share: initialisers and dropout."""

import math
import zlib
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bigrec_jax.devices import noise as noise_lib

# As Flax calls it: (key, shape, dtype) to values. Drawn by numpy, since XLA
# takes seconds to compile what is run once.
Init = Callable[..., jax.Array]

S3REC_SCALE = 0.02
DROS_ITEM_SCALE = 0.01


def _drawn(draw: Callable[[np.random.Generator, tuple], np.ndarray]) -> Init:
  def init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32):
    if isinstance(key, jax.core.Tracer):
      return jnp.zeros(shape, dtype)  # Flax checks shapes: nothing is drawn.
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return jnp.asarray(draw(generator, shape), dtype)

  return init


def uniform(fan_in: int) -> Init:
  """Returns U(-1/sqrt(fan_in), 1/sqrt(fan_in)), torch's default for layers."""
  bound = 1.0 / math.sqrt(fan_in)
  return _drawn(lambda g, shape: g.uniform(-bound, bound, shape))


def normal(scale: float) -> Init:
  """Returns N(0, scale^2)."""
  return _drawn(lambda g, shape: g.normal(0.0, scale, shape))


def dense(family: str, fan_in: int, features: int, name: str) -> nn.Dense:
  """Returns a Dense layer initialised as the family does."""
  if family == "dros":
    init = uniform(fan_in)
    return nn.Dense(features, kernel_init=init, bias_init=init, name=name)
  return nn.Dense(features, kernel_init=normal(S3REC_SCALE), name=name)


def item_init(family: str) -> Init:
  """Returns the initialiser of the item embeddings."""
  return normal(DROS_ITEM_SCALE if family == "dros" else S3REC_SCALE)


class Dropout(nn.Module):
  """Inverted dropout; every layer draws its own noise from the step's.

  Attributes:
    rate: probability that a value becomes 0.
  """

  rate: float

  @nn.compact
  def __call__(self, x: jax.Array, noise: jax.Array | None) -> jax.Array:
    """Returns x thinned and rescaled; x itself without noise (evaluation)."""
    if noise is None or self.rate == 0.0:
      return x
    own = noise_lib.fold(noise, zlib.crc32("/".join(self.path).encode()))
    keep = noise_lib.keep(own, x.shape, self.rate)
    return jnp.where(keep, x * (1.0 / (1.0 - self.rate)), 0.0)
