"""Sums over the whole catalogue whose gradient is taken on the way.

The losses that see every item are a log-sum-exp of each prediction's scores.
Here the scores of a block of predictions are made, used for the sum and for
its gradient, and forgotten: three products with the table where making them
again takes four, and [N, I] never exists. That works because what a prediction
weighs in the whole loss is known before the sum is.

Letters: N predictions, C predictions of a block on one device, P devices of
the mesh's data axis, D width, I items, rows >= I of the table.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bigrec_jax.cf.networks import TABLE_AXES, Head, table_shards
from bigrec_jax.devices import blocks as blocks_lib

# (scores [P, C, rows], whether the item is the target [P, C, rows],
# coefficients [rows] or None) to exponents [P, C, rows].
Exponent = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]

# Scores, float32, of a block on one device. A CPU wants them to stay in its
# cache: half the time of 256 MiB (docs/performance.md).
_BLOCK_SCORES = {"cpu": 1 << 20}
_ACCELERATOR_BLOCK_SCORES = 1 << 26
# Exponent of a padding row. Finite, so that a block of padding has a gradient.
_ABSENT = -1e30


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def log_sum(
  exponent: Exponent,
  num_items: int,
  mesh: Mesh,
  head: Head,
  states: jax.Array,
  targets: jax.Array,
  weights: jax.Array,
  coefficients: jax.Array | None,
) -> jax.Array:
  """Returns sum_n w_n log sum_i exp(exponent(score_ni, i is target)), scalar.

  Args:
    exponent: a function that is always the same object, for the cache of
      compiled programs.
    num_items: I; rows from there on are left out.
    mesh: where it runs.
    head: scores the items; differentiable.
    states: [N, D]; differentiable.
    targets: [N] int32.
    weights: [N] float32, w; a constant.
    coefficients: [rows] float32, what the exponent needs; a constant.
  """
  given = (head, states, targets, weights, coefficients)
  return _run(exponent, num_items, mesh, *given, gradient=False)[0]


def _forward(exponent, num_items, mesh, *given):
  return _run(exponent, num_items, mesh, *given, gradient=True)


def _backward(exponent, num_items, mesh, gradients, cotangent):
  del exponent, num_items, mesh
  head, states = jax.tree.map(lambda g: g * cotangent, gradients)
  return head, states, None, None, None


log_sum.defvjp(_forward, _backward)


def _run(
  exponent: Exponent,
  num_items: int,
  mesh: Mesh,
  head: Head,
  states: jax.Array,
  targets: jax.Array,
  weights: jax.Array,
  coefficients: jax.Array | None,
  *,
  gradient: bool,
) -> tuple[jax.Array, tuple[Head, jax.Array] | None]:
  """Returns the sum and its gradients by head and states."""
  rows = head.kernel.shape[0]
  item = jnp.arange(rows, dtype=jnp.int32)
  blocks, back = _split(mesh, rows, states.shape[0])

  def body(carry, block):
    total, d_kernel, d_bias = carry
    states, target, weight = block  # [P, C, ...]

    def exponents(scores):
      own = target[:, :, None] == item[None, None]
      value = exponent(scores, own, coefficients)
      return jnp.where((item < num_items)[None, None], value, _ABSENT)

    scores = jnp.einsum("pcd,rd->pcr", states, head.kernel)
    value, pull = jax.vjp(exponents, scores + head.bias[None, None])
    top = value.max(axis=2, keepdims=True)
    power = jnp.exp(value - top)
    mass = power.sum(axis=2, keepdims=True)  # [P, C, 1]
    total += (weight * (top + jnp.log(mass))[:, :, 0]).sum()
    if not gradient:
      return (total, d_kernel, d_bias), None
    # What all items of a prediction share is multiplied where it is small.
    (slope,) = pull(power)  # [P, C, rows]
    share = weight[:, :, None] / mass
    d_kernel += jnp.einsum("pcr,pcd->prd", slope, states * share)
    d_bias += jnp.einsum("pcr,pc->pr", slope, share[:, :, 0])
    d_states = jnp.einsum("pcr,rd->pcd", slope, head.kernel) * share
    return (total, d_kernel, d_bias), d_states

  # Each device of the data axis adds up its own; they are added once.
  replicas = mesh.shape["data"]
  placed = NamedSharding(mesh, PartitionSpec("data", TABLE_AXES))
  start = [jnp.zeros((replicas, *leaf.shape), leaf.dtype) for leaf in head]
  start = jax.lax.with_sharding_constraint(start, [placed, placed])
  (total, *d_head), d_states = jax.lax.scan(
    body,
    (jnp.zeros((), jnp.float32), *start),
    tuple(map(blocks, (states, targets, weights))),
  )
  if not gradient:
    return total, None
  return total, (Head(*(g.sum(axis=0) for g in d_head)), back(d_states))


def _split(
  mesh: Mesh, rows: int, count: int
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
  """Returns how [N, ...] becomes [blocks, P, C, ...], and the way back.

  A block takes as many predictions of each device of the data axis, so that
  they stay where they are. Padding weighs nothing.
  """
  replicas = mesh.shape["data"]
  own = -(-count // replicas)
  number = -(-own // _predictions(mesh, rows))
  size = -(-own // number)

  def blocks(values):
    rest = values.shape[1:]
    none = [(0, 0)] * len(rest)
    values = jnp.pad(values, [(0, own * replicas - count), *none])
    values = values.reshape(replicas, own, *rest)
    values = jnp.pad(values, [(0, 0), (0, number * size - own), *none])
    values = values.reshape(replicas, number, size, *rest).swapaxes(0, 1)
    placed = NamedSharding(mesh, PartitionSpec(None, "data"))
    return jax.lax.with_sharding_constraint(values, placed)

  def back(values):
    rest = values.shape[3:]
    values = values.swapaxes(0, 1).reshape(replicas, number * size, *rest)
    return values[:, :own].reshape(replicas * own, *rest)[:count]

  return blocks, back


def _predictions(mesh: Mesh, rows: int) -> int:
  """Returns C: as many predictions as a device scores at a time."""
  share = rows // table_shards(mesh)
  return blocks_lib.rows_at_once(
    share, mesh, _BLOCK_SCORES, _ACCELERATOR_BLOCK_SCORES
  )
