"""The low-rank product of an adapter, with a backward pass of its own.

Autodiff keeps the input of every adapter after dropout, seven arrays a layer,
and writes the gradients of A and B as products whose large side lies the wrong
way round in memory, so that XLA's CPU backend copies it (27 of 103 ms a layer,
docs/performance.md). Here dropout is drawn again, and only the small side is
turned.

Letters: D inputs, F outputs, R rank.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from bigrec_jax.devices import noise


def update(
  x: jax.Array,
  a: jax.Array,
  b: jax.Array,
  scale: float,
  rate: float,
  seed: jax.Array | None,
) -> jax.Array:
  """Returns dropout(x) A B scale, in x's dtype.

  Args:
    x: [..., D].
    a: [D, R], of x's dtype.
    b: [R, F], likewise.
    scale: alpha / rank.
    rate: of dropout, below 1.
    seed: uint32 scalar of the mask, which is `noise.keep`'s; None = no
      dropout.
  """
  return _update(x, a, b, seed, scale, rate)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _update(x, a, b, seed, scale, rate):
  return _forward(x, a, b, seed, scale, rate)[0]


def _forward(x, a, b, seed, scale, rate):
  small = jnp.matmul(_dropped(x, seed, rate), a)  # [..., R]
  small = small * np.asarray(scale, x.dtype)
  return jnp.matmul(small, b), (x, a, b, seed, small)


def _backward(scale, rate, residuals, cotangent):
  x, a, b, seed, small = residuals
  d_small = jnp.matmul(cotangent, b.T) * np.asarray(scale, x.dtype)
  d_x = _dropped(jnp.matmul(d_small, a.T), seed, rate)
  # [R, D], turned afterwards.
  d_a = _over_rows(d_small, _dropped(x, seed, rate)).T
  d_b = _over_rows(small, cotangent)
  return d_x, d_a, d_b, None


_update.defvjp(_forward, _backward)


def _dropped(x: jax.Array, seed: jax.Array | None, rate: float) -> jax.Array:
  """Returns x / (1 - rate) where it is kept, else 0."""
  if seed is None:
    return x
  kept = noise.keep(seed, x.shape, rate)
  return jnp.where(kept, x / np.asarray(1.0 - rate, x.dtype), 0)


def _over_rows(small: jax.Array, large: jax.Array) -> jax.Array:
  """Returns the [R, F] sum over all rows of [..., R] and [..., F]."""
  lead = tuple(range(small.ndim - 1))
  return jax.lax.dot_general(small, large, ((lead, lead), ((), ())))
