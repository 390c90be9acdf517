"""How many items are certainly, and possibly, before a target at every gamma.

For one user, item i comes before the target t under gamma > 0 when

  a_i < gamma * b_i,   a_i = log(dn_i / dn_t),  b_i = log((1 + w_i)/(1 + w_t))

so it changes sides at one critical gamma, a_i / b_i, and all gammas of a grid
are counted at once (`critical`). Both logarithms carry error bounds: each item
gets a gamma at which it is certainly before and one at which it is possibly
before. `injected_doubts` lists the items for which the two disagree.

Letters: R users of a call out of B of a block, Q questions (a user and a
gamma), C items of a shard, G gammas.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from bigrec_jax.rankers import counting
from bigrec_jax.rankers.combine import injection
from bigrec_jax.rankers.distance import critical, distance, ranking

# A log distance that no gamma ever outweighs.
_NEVER = 1e37


def log_distances(
  width: int,
  block: distance.Block,
  target: ranking.Target,
  items: distance.Items,
) -> tuple[jax.Array, jax.Array]:
  """Returns bounds [B, C] of a: certainly no more, certainly no less."""
  unit = jnp.float32(distance.UNIT)
  squared_error = distance.squared_error(
    width, block.norms[:, None], items.norms[None], jnp
  )
  found = jnp.sqrt(block.squared)
  own = target.distance[:, None]
  error = distance.root_error(found, squared_error, jnp)
  error = error + 2 * unit * (found + own)  # Of the two in the difference.
  scale = 1.0 / target.gap[:, None]
  ratio = (found - own) * scale  # dn_i / dn_t = 1 + ratio
  slack = error * scale + 8 * unit * jnp.abs(ratio)
  clear = 1.0 + ratio - slack  # Positive: its logarithm is known.
  a = jnp.log1p(jnp.maximum(ratio, jnp.float32(-1 + 2**-23)))
  margin = slack / jnp.maximum(clear, jnp.float32(1e-30))
  margin = margin + 16 * unit * jnp.abs(a)
  known = clear > 0.0
  most = jnp.where(known, a + margin, jnp.float32(_NEVER))
  least = jnp.where(known, a - margin, jnp.float32(-_NEVER))
  # Twins of the nearest are at dn = 0: before any target that isn't.
  zero = items.twins[None] == target.twin[:, None]
  most = jnp.where(zero, jnp.float32(-_NEVER), most)
  return most, jnp.where(zero, jnp.float32(-_NEVER), least)


def _injected_keys(
  width: int,
  block: distance.Block,
  target: ranking.Target,
  items: distance.Items,
  gain: injection.Gain,
  reference: injection.Reference,
  sign: jax.Array,
  grid: critical.Grid,
  shape: critical.Shape,
  counted: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Returns [B, C] codes: certainly before, possibly before."""
  most, least = log_distances(width, block, target, items)
  b, b_error = injection.log_gain(gain, reference)
  b = b * sign
  certain = critical.key(most, b - b_error, grid, shape, True)
  possible = critical.key(least, b + b_error, grid, shape, False)
  never = jnp.int32(shape.gammas)
  certain = jnp.where(counted, certain, never)
  return certain, jnp.where(counted, possible, never)


@functools.partial(jax.jit, static_argnames=("width", "layout", "mesh"))
def outranked(
  block: distance.Block,
  target: ranking.Target,
  gain: injection.Gain,
  reference: injection.Reference,
  items: distance.Items,
  *,
  width: int,
  layout: counting.ItemLayout,
  mesh: Mesh,
) -> jax.Array:
  """Counts items certainly nearer and of no less weight: [B] int32.

  They are before the target at every gamma >= 0, so that a user with many of
  them needs no sweep at all. Comparisons only: a tenth of a sweep's time.

  Args:
    block: of users.
    target: [B].
    gain: weights of the items.
    reference: [B] weights of the targets.
    items: the catalogue.
    width: D.
    layout: of `items`.
    mesh: of `items`.
  """

  def local(items, squared, gain, norms, target, reference):
    states = ranking.plain_states(
      width, distance.Block(squared, norms), target, items, layout, mesh
    )
    ahead = (states == 2) & injection.no_less(gain, reference)
    return (jax.lax.psum(ahead.sum(axis=1, dtype=jnp.int32), mesh.axis_names),)

  return ranking.map_items(local, mesh, gain, (PartitionSpec(),))(
    items, block.squared, gain, block.norms, target, reference
  )[0]


@functools.partial(
  jax.jit, static_argnames=("width", "shape", "layout", "mesh")
)
def injected_counts(
  block: distance.Block,
  users: jax.Array,
  target: ranking.Target,
  gain: injection.Gain,
  reference: injection.Reference,
  sign: jax.Array,
  grid: critical.Grid,
  items: distance.Items,
  *,
  width: int,
  shape: critical.Shape,
  layout: counting.ItemLayout,
  mesh: Mesh,
) -> tuple[jax.Array, jax.Array]:
  """Counts items before each target at every gamma of a grid, in one pass.

  Args:
    block: of users.
    users: [R] rows of `block`.
    target: [R], none of them at its row's least distance.
    gain: weights of the items, of all users.
    reference: [R] weights of the targets.
    sign: 1, or -1 where the gammas are -grid.
    grid: of `shape`.
    items: the catalogue.
    width: D.
    shape: of `grid`.
    layout: of `items`.
    mesh: of `items`.

  Returns:
    ([R, G] certainly before, [R, G] possibly before) int32.
  """

  def local(items, squared, gain, norms, users, target, reference, sign, grid):
    if gain.cf is not None:
      gain = gain._replace(cf=gain.cf[users])
    keys = _injected_keys(
      width,
      distance.Block(squared[users], norms[users]),
      target,
      items,
      gain,
      reference,
      sign,
      grid,
      shape,
      ranking.counted(target, items, layout, mesh),
    )
    return tuple(
      jax.lax.psum(critical.counts(key, shape), mesh.axis_names) for key in keys
    )

  out = (PartitionSpec(), PartitionSpec())
  return ranking.map_items(local, mesh, gain, out)(
    items,
    block.squared,
    gain,
    block.norms,
    users,
    target,
    reference,
    sign,
    grid,
  )


@functools.partial(
  jax.jit, static_argnames=("width", "shape", "layout", "mesh")
)
def injected_doubts(
  block: distance.Block,
  users: jax.Array,
  columns: jax.Array,
  target: ranking.Target,
  gain: injection.Gain,
  reference: injection.Reference,
  sign: jax.Array,
  grid: critical.Grid,
  items: distance.Items,
  *,
  width: int,
  shape: critical.Shape,
  layout: counting.ItemLayout,
  mesh: Mesh,
) -> ranking.Doubts:
  """Lists the items that may or may not be before a target at one gamma each.

  Args:
    block: of users.
    users: [Q] rows of `block`.
    columns: [Q] which gamma of `grid`.
    target: [Q] each.
    gain: as in `injected_counts`, of all users.
    reference: [Q] each.
    sign: as in `injected_counts`.
    grid: of `shape`.
    items: the catalogue.
    width: D.
    shape: of `grid`.
    layout: of `items`.
    mesh: of `items`.
  """

  def local(
    items, squared, gain, norms, users, columns, target, reference, sign, grid
  ):
    if gain.cf is not None:
      gain = gain._replace(cf=gain.cf[users])
    certain, possible = _injected_keys(
      width,
      distance.Block(squared[users], norms[users]),
      target,
      items,
      gain,
      reference,
      sign,
      grid,
      shape,
      ranking.counted(target, items, layout, mesh),
    )
    column = columns[:, None]
    states = critical.before(certain, column, shape).astype(jnp.int8)
    states = states + critical.before(possible, column, shape).astype(jnp.int8)
    return ranking.list_doubts(states, layout, mesh)

  out = (*ranking.DOUBTS_OUT, PartitionSpec(None, mesh.axis_names))
  return ranking.Doubts(
    *ranking.map_items(local, mesh, gain, out)(
      items,
      block.squared,
      gain,
      block.norms,
      users,
      columns,
      target,
      reference,
      sign,
      grid,
    )
  )
