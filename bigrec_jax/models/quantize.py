"""Weights as leaves: plain arrays, int8 or nf4. `matmul` knows, layers do not.

int8 keeps one scale per output channel (symmetric, so zero stays zero). nf4 is
the 4-bit normal float of QLoRA (Dettmers et al. 2023, appendix E): blocks of
64 inputs of one output share their largest magnitude, and each weight is the
nearest of 16 quantiles of a normal distribution.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 64  # Weights per nf4 scale, as QLoRA.

# Quantiles of N(0, 1), scaled to [-1, 1], zero exact (QLoRA, appendix E).
NF4_CODES = np.array(
  [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
  ],
  np.float32,
)


@flax.struct.dataclass
class Int8Weight:
  """An [..., D, F] matrix in 8 bits; leading axes are stacked layers.

  Attributes:
    values: [..., D, F] int8.
    scale: [..., 1, F] float32; weight = values * scale.
  """

  values: jax.Array
  scale: jax.Array

  @property
  def shape(self) -> tuple[int, ...]:
    """Shape of the matrix that it stands for."""
    return self.values.shape

  def dequantize(self, dtype: jnp.dtype) -> jax.Array:
    """Returns the matrix [..., D, F]."""
    return (self.values.astype(jnp.float32) * self.scale).astype(dtype)


@flax.struct.dataclass
class Nf4Weight:
  """An [..., D, F] matrix in 4 bits; leading axes are stacked layers.

  D is padded to a multiple of 64, with zeros, which are exact.

  Attributes:
    values: [..., ceil(D / 64) * 32, F] uint8; row r holds the codes of inputs
      2r (low 4 bits) and 2r + 1.
    scale: [..., ceil(D / 64), F] float32, largest magnitude of the block.
    rows: D.
  """

  values: jax.Array
  scale: jax.Array
  rows: int = flax.struct.field(pytree_node=False)

  @property
  def shape(self) -> tuple[int, ...]:
    """Shape of the matrix that it stands for."""
    return (*self.values.shape[:-2], self.rows, self.values.shape[-1])

  def dequantize(self, dtype: jnp.dtype) -> jax.Array:
    """Returns the matrix [..., D, F]."""
    *lead, half, features = self.values.shape
    codes = jnp.stack(
      [self.values & np.uint8(15), self.values >> np.uint8(4)], axis=-2
    )  # [..., D/2, 2, F]
    levels = jnp.asarray(NF4_CODES)[codes.astype(jnp.int32)]
    blocks = jnp.reshape(levels, (*lead, half * 2 // BLOCK, BLOCK, features))
    weight = blocks * self.scale[..., :, None, :]
    weight = jnp.reshape(weight, (*lead, half * 2, features))
    return weight[..., : self.rows, :].astype(dtype)


Quantized = Int8Weight | Nf4Weight
Weight = jax.Array | Quantized


def is_quantized(weight: Any) -> bool:
  """True for a leaf of this module, false for a plain array."""
  return isinstance(weight, Quantized)


def quantize_int8(weight: jax.Array) -> Int8Weight:
  """Rounds [..., D, F] to 8 bits; |error| <= half a scale step."""
  weight = weight.astype(jnp.float32)
  peak = jnp.max(jnp.abs(weight), axis=-2, keepdims=True)
  # An all-zero column has no scale; any positive one keeps it zero.
  scale = jnp.where(peak > 0, peak / np.float32(127), np.float32(1))
  return Int8Weight(jnp.round(weight / scale).astype(jnp.int8), scale)


def quantize_nf4(weight: jax.Array) -> Nf4Weight:
  """Rounds [..., D, F] to the nearest nf4 level of its block of 64 inputs.

  |error| <= 0.152 of the block's largest magnitude: half the widest gap
  between neighbouring codes.
  """
  *lead, rows, features = weight.shape
  padding = [(0, 0)] * len(lead) + [(0, -rows % BLOCK), (0, 0)]
  blocks = jnp.pad(weight.astype(jnp.float32), padding)
  padded = rows + -rows % BLOCK
  blocks = jnp.reshape(blocks, (*lead, padded // BLOCK, BLOCK, features))
  peak = jnp.max(jnp.abs(blocks), axis=-2, keepdims=True)
  scaled = blocks / jnp.where(peak > 0, peak, np.float32(1))
  # Nearest code = number of midpoints below.
  midpoints = (NF4_CODES[1:] + NF4_CODES[:-1]) / 2
  codes = jnp.searchsorted(jnp.asarray(midpoints), scaled).astype(jnp.uint8)
  codes = jnp.reshape(codes, (*lead, padded // 2, 2, features))
  values = codes[..., 0, :] | (codes[..., 1, :] << np.uint8(4))
  return Nf4Weight(values, jnp.squeeze(peak, -2), rows)


def quantize(weight: jax.Array, kind: str) -> Weight:
  """Returns the weight as a leaf of `none`, `int8` or `nf4`."""
  if kind == "none":
    return weight
  quantizers: Mapping[str, Callable[[jax.Array], Quantized]] = {
    "int8": quantize_int8,
    "nf4": quantize_nf4,
  }
  return quantizers[kind](weight)


def dequantize(weight: Weight, dtype: jnp.dtype) -> jax.Array:
  """Returns the plain array, in `dtype`."""
  if isinstance(weight, Quantized):
    return weight.dequantize(dtype)
  return weight.astype(dtype)


def matmul(x: jax.Array, weight: Weight) -> jax.Array:
  """Returns x @ weight in x's dtype, whatever the weight is stored in.

  Args:
    x: [..., D].
    weight: [D, F].

  Returns:
    [..., F]. The gradient of a quantised weight is zero: it is frozen.
  """
  if isinstance(weight, Quantized):
    return _frozen_matmul(x, weight)
  return jnp.matmul(x, weight.astype(x.dtype))


@jax.custom_vjp
def _frozen_matmul(x: jax.Array, weight: Quantized) -> jax.Array:
  if isinstance(weight, Int8Weight):
    # The scale belongs to the output channel, so it may follow the product:
    # the int8 values then widen inside the matmul's operand read.
    product = jnp.matmul(x, weight.values.astype(x.dtype))
    scale = jnp.squeeze(weight.scale, -2)
    scale = jnp.reshape(scale, (1,) * (x.ndim - 1) + scale.shape)
    return (product.astype(jnp.float32) * scale).astype(x.dtype)
  return jnp.matmul(x, weight.dequantize(x.dtype))


def _frozen_forward(
  x: jax.Array, weight: Quantized
) -> tuple[jax.Array, Quantized]:
  # Only the small leaf is kept for the backward pass. Autodiff would keep the
  # dequantised matrix of every layer, which undoes the quantisation.
  return _frozen_matmul(x, weight), weight


def _frozen_backward(
  weight: Quantized, cotangent: jax.Array
) -> tuple[jax.Array, Any]:
  matrix = weight.dequantize(cotangent.dtype)

  def zero(leaf):
    if jnp.issubdtype(leaf.dtype, jnp.integer):
      return np.zeros(leaf.shape, jax.dtypes.float0)
    return jnp.zeros_like(leaf)

  return jnp.matmul(cotangent, matrix.T), jax.tree.map(zero, weight)


_frozen_matmul.defvjp(_frozen_forward, _frozen_backward)
