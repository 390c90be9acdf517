"""Noise of training steps: a hash of counters.

Dropout and negatives need many draws and no more than that neighbours do not
correlate. Two rounds of a 32-bit integer hash cost a few operations that fuse
into what uses them, where `jax.random`'s threefry cost 15 % of a step and
half of its compile time (measured on 2 CPU cores). The value at a place
depends on the place and the seed only, so sharding doesn't change it.

A seed is a scalar uint32. `fold` makes seeds of seeds, as
`jax.random.fold_in` does keys.
"""

import jax
import jax.numpy as jnp


def _mix(x: jax.Array) -> jax.Array:
  """Returns a hash of each uint32: the bijection "lowbias32" (C. Wellons)."""
  x = x ^ (x >> jnp.uint32(16))
  x = x * jnp.uint32(0x7FEB352D)
  x = x ^ (x >> jnp.uint32(15))
  x = x * jnp.uint32(0x846CA68B)
  return x ^ (x >> jnp.uint32(16))


def fold(seed: jax.Array, number: jax.Array | int) -> jax.Array:
  """Returns another seed for each number; both uint32 scalars."""
  number = jnp.asarray(number, jnp.uint32)
  return _mix(_mix(seed + jnp.uint32(0x9E3779B9)) ^ _mix(number))


def bits(seed: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Returns 32 random bits at every place, uint32 [shape].

  Args:
    seed: scalar.
    shape: of at most 2**32 places.
  """
  counter = jnp.zeros(shape, jnp.uint32)
  stride = 1
  for axis in reversed(range(len(shape))):
    place = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    counter = counter + place * jnp.uint32(stride)
    stride *= shape[axis]
  return at(seed, counter)


def at(seed: jax.Array, place: jax.Array) -> jax.Array:
  """Returns 32 random bits for each place; both uint32, of the same rank."""
  # A second seed between the rounds: with one, two seeds would give the same
  # sequence in another order.
  return _mix(_mix(place ^ seed) + fold(seed, 1))


def integers(seed: jax.Array, shape: tuple[int, ...], below: int) -> jax.Array:
  """Returns uniform int32 in 0..below-1; the bias is below / 2**32."""
  return (bits(seed, shape) % jnp.uint32(below)).astype(jnp.int32)


def uniform(seed: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Returns uniform float32 in [0, 1), multiples of 2**-24."""
  high = bits(seed, shape) >> jnp.uint32(8)
  return high.astype(jnp.float32) * jnp.float32(2**-24)


def keep(seed: jax.Array, shape: tuple[int, ...], rate: float) -> jax.Array:
  """Returns bool, False with probability `rate`, for dropout."""
  return bits(seed, shape) >= jnp.uint32(round(rate * 2**32))
