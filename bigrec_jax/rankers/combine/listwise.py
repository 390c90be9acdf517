"""Weights of columns by which the item taken comes before the others.

A user takes one of their candidates with the probability of a softmax over
linear scores (the conditional logit of McFadden 1974; listwise cross-entropy of
one relevant item, as ListNet of Cao et al. 2007). Weights may depend on the
user: w + sum_g z_g v_g. The loss is convex in w and v, and with an L2 penalty
has one minimum, which Newton's method finds in a few steps.

Letters: N users, n of a block, S slots, F columns, G gates, A = 1 + G.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_BLOCK = 128  # Users whose slots are multiplied at a time: they stay in cache.
_MOST_STEPS = 30
_ENOUGH = 1e-6  # Half the squared Newton decrement, in nats a user.
_HALVINGS = 10


class Data(NamedTuple):
  """Users of whom it is known what they took, padded to whole blocks.

  Attributes:
    columns: [N, S, F] float32, standardised.
    real: [N, S] bool, which slots hold an item.
    gates: [N, A] float32, standardised; the first is 1.
    taken: [N] int32, the slot.
  """

  columns: jax.Array
  real: jax.Array
  gates: jax.Array
  taken: jax.Array


def data(
  columns: np.ndarray, real: np.ndarray, gates: np.ndarray, taken: np.ndarray
) -> Data:
  """Returns users ready for `fit`.

  Args:
    columns: [N, S, F].
    real: [N, S].
    gates: [N, G].
    taken: [N].
  """
  count = -(-len(taken) // _BLOCK) * _BLOCK

  def pad(array: np.ndarray, dtype: type) -> jax.Array:
    missing = [(0, count - len(array))] + [(0, 0)] * (array.ndim - 1)
    return jnp.asarray(np.pad(array, missing).astype(dtype))

  gates = np.concatenate([np.ones((len(gates), 1)), gates], axis=1)
  return Data(
    pad(columns, np.float32),
    pad(real, np.bool_).at[len(taken) :].set(True),
    pad(gates, np.float32),
    pad(taken, np.int32),
  )


def fit(
  users: Data, included: np.ndarray, penalty: np.ndarray, start: np.ndarray
) -> np.ndarray:
  """Returns the weights [A, F] float64 of the least penalised loss.

  The sum over the included users of -log p(taken), plus half the penalty times
  the squared weights.

  Args:
    users: N of them.
    included: [N'] bool, N' <= N: who counts.
    penalty: [A, F], above 0.
    start: [A, F], where to begin.
  """
  weights, shape = start.astype(np.float64).ravel(), start.shape
  number = max(int(included.sum()), 1)
  counted = np.zeros(len(users.taken), np.float32)
  counted[: len(included)] = included
  ridge = penalty.ravel() / number

  def look(at: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    loss, slope, curve = _derivatives(
      users, counted, at.reshape(shape).astype(np.float32)
    )
    whole = float(loss) / number + 0.5 * float(ridge @ at**2)
    slope = np.asarray(slope, np.float64).ravel() / number + ridge * at
    curve = np.asarray(curve, np.float64) / number + np.diag(ridge)
    return whole, slope, curve

  loss, slope, curve = look(weights)
  for _ in range(_MOST_STEPS):
    step = np.linalg.solve(curve, slope)
    if 0.5 * slope @ step < _ENOUGH:
      break
    for _ in range(_HALVINGS):
      moved = weights - step
      found = look(moved)
      if found[0] < loss:
        break
      step = step / 2
    else:  # Nothing is lower but by a rounding.
      break
    weights, (loss, slope, curve) = moved, found
  return weights.reshape(shape)


@jax.jit
def _derivatives(
  users: Data, counted: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns loss, gradient [A, F] and Hessian [A * F, A * F], summed."""
  shape = weights.shape
  cut = functools.partial(_cut, blocks=len(users.taken) // _BLOCK)

  def add(sums, block):
    (columns, real, gates, taken), own = block
    # [n, F] weights of each user, [n, S] scores.
    mixed = jnp.matmul(gates, weights, precision="highest")
    scores = jnp.einsum("nsf,nf->ns", columns, mixed, precision="highest")
    scores = jnp.where(real, scores, -jnp.inf)
    log_p = jax.nn.log_softmax(scores, axis=1)
    p = jnp.exp(log_p)
    rows = jnp.arange(len(taken))
    mean = jnp.einsum("ns,nsf->nf", p, columns, precision="highest")
    spread = jnp.einsum(
      "nsf,nsg->nfg", columns * p[:, :, None], columns, precision="highest"
    )
    spread = spread - mean[:, :, None] * mean[:, None, :]  # [n, F, F]
    loss = -(own * log_p[rows, taken]).sum()
    slope = jnp.einsum(
      "na,nf->af",
      gates * own[:, None],
      mean - columns[rows, taken],
      precision="highest",
    )
    pairs = gates[:, :, None] * gates[:, None, :] * own[:, None, None]
    curve = jnp.einsum("nab,nfg->afbg", pairs, spread, precision="highest")
    return jax.tree.map(jnp.add, sums, (loss, slope, curve)), None

  zero = jnp.zeros((), jnp.float32)
  nothing = zero, jnp.zeros(shape), jnp.zeros((*shape, *shape))
  (loss, slope, curve), _ = jax.lax.scan(
    add, nothing, (cut(users), cut(counted))
  )
  size = shape[0] * shape[1]
  return loss, slope, curve.reshape(size, size)


def _cut(tree, blocks: int):
  """Cuts the first axis of arrays into blocks of users."""
  return jax.tree.map(lambda x: x.reshape(blocks, _BLOCK, *x.shape[1:]), tree)
