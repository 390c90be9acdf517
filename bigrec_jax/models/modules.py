"""Linen modules that families share: norm, and linear with an adapter."""

import zlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bigrec_jax.config import LoraConfig
from bigrec_jax.devices import noise
from bigrec_jax.models import low_rank, quantize


class Matrix(nn.Module):
  """One matrix, returned when called.

  Attributes:
    leaf: its name in the tree.
    shape: rows and columns.
    initializer: of a fresh one.
    dtype: of the parameter.
  """

  leaf: str
  shape: tuple[int, int]
  initializer: Any
  dtype: jnp.dtype

  @nn.compact
  def __call__(self) -> jax.Array:
    """Returns the matrix."""
    return self.param(self.leaf, self.initializer, self.shape, self.dtype)


class RMSNorm(nn.Module):
  """Root-mean-square norm with a learnt scale, in float32.

  Attributes:
    epsilon: added to the mean square.
    dtype: of the parameter.
  """

  epsilon: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns x [..., D] with unit mean square times the scale."""
    width = x.shape[-1]
    scale = self.param("scale", nn.initializers.ones, (width,), self.dtype)
    wide = x.astype(jnp.float32)
    mean = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    normal = wide * jax.lax.rsqrt(mean + np.float32(self.epsilon))
    scale = jnp.reshape(scale, (1,) * (x.ndim - 1) + (width,))
    return (normal * scale.astype(jnp.float32)).astype(x.dtype)


class Linear(nn.Module):
  """y = x W + b + dropout(x) A B alpha / rank, the last on target modules.

  W may be a leaf of quantize.py. A and B are float32 masters in collection
  `lora`, used in x's dtype; scaling and dropout are PEFT's.

  Attributes:
    features: F.
    use_bias: whether b exists.
    dtype: of W and b.
    lora: the adapter; none if None or if `name` is not a target.
  """

  features: int
  use_bias: bool
  dtype: jnp.dtype
  lora: LoraConfig | None

  @nn.compact
  def __call__(self, x: jax.Array, seed: jax.Array | None) -> jax.Array:
    """Maps [..., D] to [..., F].

    Args:
      x: the input.
      seed: uint32 scalar, of the layer's dropout masks; None = no dropout.
    """
    shape = (x.shape[-1], self.features)
    # `param` would compare each leaf of a quantised weight with an array of
    # this shape, so a weight that is there is taken as it is.
    kernel: quantize.Weight
    if self.has_variable("params", "kernel"):
      kernel = self.get_variable("params", "kernel")
    else:
      init = nn.initializers.normal(0.02)
      kernel = self.param("kernel", init, shape, self.dtype)
    if tuple(kernel.shape) != shape:
      raise ValueError(f"{self.path}: kernel {kernel.shape=}, expected {shape}")
    y = quantize.matmul(x, kernel)
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, shape[1:], self.dtype)
      y = y + jnp.reshape(bias, (1,) * (y.ndim - 1) + (-1,)).astype(y.dtype)
    if self.lora is None or self.name not in self.lora.target_modules:
      return y
    return y + self._adapter(x, self.lora, seed)

  def _adapter(
    self, x: jax.Array, lora: LoraConfig, seed: jax.Array | None
  ) -> jax.Array:
    def make(name, shape):
      # Real initial values come from lora.init; zeros only give the shape.
      return self.variable("lora", name, jnp.zeros, shape, jnp.float32).value

    a = make("lora_a", (x.shape[-1], lora.rank)).astype(x.dtype)
    b = make("lora_b", (lora.rank, self.features)).astype(x.dtype)
    if seed is not None:
      # As PEFT: a mask for each adapter, those of one input as well.
      seed = noise.fold(seed, zlib.crc32(str(self.name).encode()))
    scale = lora.alpha / lora.rank
    return low_rank.update(x, a, b, scale, lora.dropout, seed)
