"""Pieces that the networks share: initialisers, dropout, item tables."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

Init = Callable[..., jax.Array]

S3REC_SCALE = 0.02
DROS_ITEM_SCALE = 0.01


def uniform(fan_in: int) -> Init:
  """Returns U(-1/sqrt(fan_in), 1/sqrt(fan_in)), torch's default for layers."""
  bound = 1.0 / math.sqrt(fan_in)

  def init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def dense(family: str, fan_in: int, features: int, name: str) -> nn.Dense:
  """Returns a Dense layer initialised as the family does."""
  if family == "dros":
    init = uniform(fan_in)
    return nn.Dense(features, kernel_init=init, bias_init=init, name=name)
  init = nn.initializers.normal(S3REC_SCALE)
  return nn.Dense(features, kernel_init=init, name=name)


def item_init(family: str) -> Init:
  """Returns the initialiser of the item embeddings."""
  scale = DROS_ITEM_SCALE if family == "dros" else S3REC_SCALE
  return nn.initializers.normal(scale)


class Dropout(nn.Module):
  """Inverted dropout on 16-bit draws.

  Two draws come out of each 32-bit word, since on a CPU the random words cost
  about as much as the layer they follow; 1/65536 is fine enough a rate.

  Attributes:
    rate: probability that a value becomes 0.
  """

  rate: float

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Returns x, thinned and rescaled when training; same shape."""
    threshold = round(self.rate * 65536)
    if not train or threshold == 0:
      return x
    size = x.size + x.size % 2
    words = jax.random.bits(self.make_rng("dropout"), (size // 2,), jnp.uint32)
    low = words & jnp.uint32(0xFFFF)
    draws = jnp.concatenate([low, words >> jnp.uint32(16)])[: x.size]
    keep = (draws >= jnp.uint32(threshold)).reshape(x.shape)
    scale = jnp.asarray(65536 / (65536 - threshold), x.dtype)
    return jnp.where(keep, x * scale, jnp.zeros((), x.dtype))
