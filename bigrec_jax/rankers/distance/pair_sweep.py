"""The sweep of `sweep` with a gamma for popularity and another for CF.

Item i comes before the target t under gammas f and g > 0 when

  a_i - f * p_i < g * c_i,   a_i = log(dn_i / dn_t),

p_i and c_i the logarithms of (1 + w_i)/(1 + w_t) of popularity and of CF. With
f given that is again one critical gamma for each item, so a pass takes the
distances and logarithms once and goes over a few f, each with all g at once.

Letters: R users of a call out of B of a block, Q questions (a user, an f and a
g), C items of a shard, F gammas of popularity, G of CF.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from bigrec_jax.rankers import counting
from bigrec_jax.rankers.combine import injection
from bigrec_jax.rankers.distance import critical, distance, ranking, sweep


def _keys(
  most: jax.Array,
  least: jax.Array,
  popularity: tuple[jax.Array, jax.Array],
  cf: tuple[jax.Array, jax.Array],
  first: jax.Array,
  grid: critical.Grid,
  shape: critical.Shape,
  counted: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Returns [R, C] codes at popularity's gamma `first`, a scalar or [R, 1].

  Args:
    most: [R, C], bound of a from above.
    least: [R, C], from below.
    popularity: p and its error.
    cf: c and its error.
    first: popularity's gamma.
    grid: CF's gammas.
    shape: of `grid`.
    counted: [R, C], whether an item may count.

  Returns:
    (certainly before, possibly before).
  """
  (p, p_error), (c, c_error) = popularity, cf
  shift, off = first * p, first * p_error
  # Of the gammas, the product, the sums and the division by c.
  unit = jnp.float32(8 * distance.UNIT)

  def code(bound: jax.Array, certain: bool) -> jax.Array:
    error = off + unit * (jnp.abs(bound) + jnp.abs(shift))
    side = jnp.float32(1 if certain else -1)
    moved = (bound - shift) + side * error
    return critical.key(moved, c - side * c_error, grid, shape, certain)

  never = jnp.int32(shape.gammas)
  certain = jnp.where(counted, code(most, True), never)
  return certain, jnp.where(counted, code(least, False), never)


@functools.partial(
  jax.jit, static_argnames=("width", "shape", "layout", "mesh")
)
def pair_counts(
  block: distance.Block,
  users: jax.Array,
  target: ranking.Target,
  gain: injection.Gain,
  reference: injection.Reference,
  firsts: jax.Array,
  grid: critical.Grid,
  items: distance.Items,
  *,
  width: int,
  shape: critical.Shape,
  layout: counting.ItemLayout,
  mesh: Mesh,
) -> tuple[jax.Array, jax.Array]:
  """Counts items before each target at every pair of gammas, in one pass.

  Args:
    block: of users.
    users: [R] rows of `block`.
    target: [R], none of them at its row's least distance.
    gain: weights of the items, of all users; both parts.
    reference: [R] weights of the targets.
    firsts: [F] float32, popularity's gammas, positive.
    grid: CF's gammas, of `shape`.
    items: the catalogue.
    width: D.
    shape: of `grid`.
    layout: of `items`.
    mesh: of `items`.

  Returns:
    ([R, F, G] certainly before, [R, F, G] possibly before) int32.
  """

  def local(
    items, squared, gain, norms, users, target, reference, firsts, grid
  ):
    gain = gain._replace(cf=gain.cf[users])
    part = distance.Block(squared[users], norms[users])
    most, least = sweep.log_distances(width, part, target, items)
    popularity = injection.popularity_gain(gain, reference)
    cf = injection.cf_gain(gain, reference)
    counted = ranking.counted(target, items, layout, mesh)

    def one(first: jax.Array) -> tuple[jax.Array, ...]:
      keys = _keys(most, least, popularity, cf, first, grid, shape, counted)
      return tuple(critical.counts(key, shape) for key in keys)

    counts = jax.lax.psum(jax.lax.map(one, firsts), mesh.axis_names)
    return tuple(jnp.swapaxes(count, 0, 1) for count in counts)

  out = (PartitionSpec(), PartitionSpec())
  return ranking.map_items(local, mesh, gain, out)(
    items,
    block.squared,
    gain,
    block.norms,
    users,
    target,
    reference,
    firsts,
    grid,
  )


@functools.partial(
  jax.jit, static_argnames=("width", "shape", "layout", "mesh")
)
def pair_doubts(
  block: distance.Block,
  users: jax.Array,
  firsts: jax.Array,
  columns: jax.Array,
  target: ranking.Target,
  gain: injection.Gain,
  reference: injection.Reference,
  grid: critical.Grid,
  items: distance.Items,
  *,
  width: int,
  shape: critical.Shape,
  layout: counting.ItemLayout,
  mesh: Mesh,
) -> ranking.Doubts:
  """Lists the items that may or may not be before a target at a pair each.

  Args:
    block: of users.
    users: [Q] rows of `block`.
    firsts: [Q] float32, popularity's gamma.
    columns: [Q] which gamma of `grid`.
    target: [Q] each.
    gain: as in `pair_counts`, of all users.
    reference: [Q] each.
    grid: CF's gammas, of `shape`.
    items: the catalogue.
    width: D.
    shape: of `grid`.
    layout: of `items`.
    mesh: of `items`.
  """

  def local(
    items, squared, gain, norms, users, firsts, columns, target, reference, grid
  ):
    gain = gain._replace(cf=gain.cf[users])
    part = distance.Block(squared[users], norms[users])
    keys = _keys(
      *sweep.log_distances(width, part, target, items),
      injection.popularity_gain(gain, reference),
      injection.cf_gain(gain, reference),
      firsts[:, None],
      grid,
      shape,
      ranking.counted(target, items, layout, mesh),
    )
    certain, possible = (
      critical.before(key, columns[:, None], shape).astype(jnp.int8)
      for key in keys
    )
    return ranking.list_doubts(certain + possible, layout, mesh)

  out = (*ranking.DOUBTS_OUT, PartitionSpec(None, mesh.axis_names))
  return ranking.Doubts(
    *ranking.map_items(local, mesh, gain, out)(
      items,
      block.squared,
      gain,
      block.norms,
      users,
      firsts,
      columns,
      target,
      reference,
      grid,
    )
  )
