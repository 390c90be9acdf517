"""How many items certainly, and possibly, come before a target, by counting.

For one user, item i comes before the target t under gamma > 0 when

  a_i < gamma * b_i,   a_i = log(dn_i / dn_t),  b_i = log((1 + w_i)/(1 + w_t))

so it changes sides at one critical gamma, a_i / b_i, and all gammas of a grid
are counted at once: a histogram of the critical gammas over the grid's
intervals, then a running sum. Distances and logarithms are float32 with known
error bounds; each item gets the critical gamma at which it is certainly before
and the one at which it is possibly before. Where the two counts agree the rank
is decided; `doubtful*` lists the few items where they do not, and
`resolution` compares those in float64.

Letters: B users, Q questions (a user and a gamma), C items of a shard, P
shards, G gammas.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from bigrec_jax import counting
from bigrec_jax.grounding import critical, distance, injection

# A log distance that no gamma ever outweighs.
_NEVER = 1e37

# Doubtful items listed per question and shard; the rest is fetched whole.
_LISTED = 32


class Target(NamedTuple):
  """One target per user.

  Attributes:
    distance: [B] float32, rounded from the exact one.
    gap: [B] float32, the exact distance less the row's least, positive.
    twin: [B] int32, twin number of the row's nearest item.
    group: [B] int32, rows of this group number are never counted.
  """

  distance: np.ndarray
  gap: np.ndarray
  twin: np.ndarray
  group: np.ndarray


def _columns(layout: counting.ItemLayout, mesh: Mesh) -> jax.Array:
  first = counting.shard_index(mesh) * layout.rows
  return first + jnp.arange(layout.rows, dtype=jnp.int32)


def _difference(
  width: int,
  block: distance.Block,
  target: Target,
  items: distance.Items,
) -> tuple[jax.Array, jax.Array]:
  """Returns d_i - d_t [B, C] and how far it may be off."""
  error = distance.distance_error(
    width, block.distances, block.norms[:, None], items.norms[None], jnp
  )
  own = target.distance[:, None]
  error = error + jnp.float32(2 * distance.UNIT) * (block.distances + own)
  return block.distances - own, error


def _counted(
  target: Target, items: distance.Items, layout: counting.ItemLayout, mesh: Mesh
) -> jax.Array:
  """Returns which [B, C] items may count: real ones outside the group."""
  real = _columns(layout, mesh) < layout.num_items
  return real[None] & (items.groups[None] != target.group[:, None])


def _injected_keys(
  width: int,
  block: distance.Block,
  target: Target,
  items: distance.Items,
  gain: injection.Gain,
  reference: injection.Reference,
  sign: jax.Array,
  grid: critical.Grid,
  shape: critical.Shape,
  counted: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Returns [B, C] codes: certainly before, possibly before."""
  difference, error = _difference(width, block, target, items)
  gap = target.gap[:, None]
  ratio = difference / gap  # dn_i / dn_t = 1 + ratio
  slack = error / gap + jnp.float32(4 * distance.UNIT) * jnp.abs(ratio)
  clear = 1.0 + ratio - slack  # Positive: its logarithm is known.
  a = jnp.log1p(jnp.maximum(ratio, jnp.float32(-1 + 2**-23)))
  rounding = jnp.float32(16 * distance.UNIT)
  margin = slack / jnp.maximum(clear, jnp.float32(1e-30))
  margin = margin + rounding * jnp.abs(a)
  known = clear > 0.0
  certain = jnp.where(known, a + margin, jnp.float32(_NEVER))
  possible = jnp.where(known, a - margin, jnp.float32(-_NEVER))
  # Twins of the nearest are at dn = 0: before any target that isn't.
  zero = items.twins[None] == target.twin[:, None]
  certain = jnp.where(zero, jnp.float32(-_NEVER), certain)
  possible = jnp.where(zero, jnp.float32(-_NEVER), possible)
  b, b_error = injection.log_gain(gain, reference)
  b = b * sign
  certain = critical.key(certain, b - b_error, grid, shape, True)
  possible = critical.key(possible, b + b_error, grid, shape, False)
  never = jnp.int32(shape.gammas)
  certain = jnp.where(counted, certain, never)
  return certain, jnp.where(counted, possible, never)


def _map(function: Callable, mesh: Mesh, gain: Any, out: Any) -> Callable:
  """Maps (items, distances, gain, *whole) over shards of the item axis."""
  rows = PartitionSpec(mesh.axis_names)
  across = PartitionSpec(None, mesh.axis_names)
  gain_spec = injection.Gain(
    None if gain.popularity is None else (rows, rows),
    None if gain.cf is None else across,
  )

  def call(items: Any, distances: Any, gain: Any, *whole: Any) -> Any:
    return jax.shard_map(
      function,
      mesh=mesh,
      in_specs=(rows, across, gain_spec) + (PartitionSpec(),) * len(whole),
      out_specs=out,
      check_vma=False,
    )(items, distances, gain, *whole)

  return call


NO_GAIN = injection.Gain(None, None)


@functools.partial(jax.jit, static_argnames=("width", "layout", "mesh"))
def plain_counts(
  block: distance.Block,
  target: Target,
  items: distance.Items,
  *,
  width: int,
  layout: counting.ItemLayout,
  mesh: Mesh,
) -> tuple[jax.Array, jax.Array]:
  """Counts items nearer than each target.

  Returns:
    ([B] certainly before, [B] possibly before) int32.
  """

  def local(items, distances, _, norms, target):
    state = _plain_states(
      width, distance.Block(distances, norms), target, items, layout, mesh
    )
    counts = (state == 2, state > 0)
    return tuple(
      jax.lax.psum(c.sum(axis=1, dtype=jnp.int32), mesh.axis_names)
      for c in counts
    )

  out = (PartitionSpec(), PartitionSpec())
  mapped = _map(local, mesh, NO_GAIN, out)
  return mapped(items, block.distances, NO_GAIN, block.norms, target)


def _plain_states(
  width: int,
  block: distance.Block,
  target: Target,
  items: distance.Items,
  layout: counting.ItemLayout,
  mesh: Mesh,
) -> jax.Array:
  """Returns [B, C] int8: 2 certainly nearer, 1 possibly, 0 not."""
  difference, error = _difference(width, block, target, items)
  counted = _counted(target, items, layout, mesh)
  certain = counted & (difference < -error)
  possible = counted & (difference <= error)
  return certain.astype(jnp.int8) + possible.astype(jnp.int8)


@functools.partial(
  jax.jit, static_argnames=("width", "shape", "layout", "mesh")
)
def injected_counts(
  block: distance.Block,
  target: Target,
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
    target: of each of them; not at the row's least distance.
    gain: weights of the items.
    reference: weights of the targets.
    sign: 1, or -1 where the gammas are -grid.
    grid: of `shape`.
    items: the catalogue.
    width: D.
    shape: of `grid`.
    layout: of `items`.
    mesh: of `items`.

  Returns:
    ([B, G] certainly before, [B, G] possibly before) int32.
  """

  def local(items, distances, gain, norms, target, reference, sign, grid):
    keys = _injected_keys(
      width,
      distance.Block(distances, norms),
      target,
      items,
      gain,
      reference,
      sign,
      grid,
      shape,
      _counted(target, items, layout, mesh),
    )
    return tuple(
      jax.lax.psum(critical.counts(key, shape), mesh.axis_names) for key in keys
    )

  out = (PartitionSpec(), PartitionSpec())
  return _map(local, mesh, gain, out)(
    items, block.distances, gain, block.norms, target, reference, sign, grid
  )


class Doubts(NamedTuple):
  """What bounds could not decide, for Q questions.

  Attributes:
    certain: [Q] items certainly before.
    listed: [Q, n] items in doubt, I' where the list is shorter.
    unlisted: [Q] how many more there are.
    states: [Q, I'] int8, 2 certainly before, 1 in doubt; over the item axis.
  """

  certain: jax.Array
  listed: jax.Array
  unlisted: jax.Array
  states: jax.Array


_DOUBTS_OUT = (PartitionSpec(), PartitionSpec(), PartitionSpec())


def _list_doubts(
  states: jax.Array, layout: counting.ItemLayout, mesh: Mesh
) -> tuple[jax.Array, ...]:
  """Counts and lists a shard's states [Q, C], joined over the shards."""
  # The list and the count must come from the very same bits.
  states = jax.lax.optimization_barrier(states)
  columns = _columns(layout, mesh)
  doubtful = states == 1
  # Equal scores come by position: the first doubtful items of the shard.
  found, places = counting.stable_top_k(
    1.0 - doubtful.astype(jnp.float32), min(_LISTED, layout.rows)
  )
  rows = jnp.where(found == 0.0, columns[0] + places, layout.padded)
  listed = jax.lax.all_gather(rows, mesh.axis_names, axis=1, tiled=True)
  more = doubtful.sum(axis=1, dtype=jnp.int32) - (found == 0.0).sum(
    axis=1, dtype=jnp.int32
  )
  certain = (states == 2).sum(axis=1, dtype=jnp.int32)
  certain, more = jax.lax.psum((certain, more), mesh.axis_names)
  return certain, listed, more, states


@functools.partial(jax.jit, static_argnames=("width", "layout", "mesh"))
def plain_doubts(
  block: distance.Block,
  users: jax.Array,
  target: Target,
  items: distance.Items,
  *,
  width: int,
  layout: counting.ItemLayout,
  mesh: Mesh,
) -> Doubts:
  """Lists the items that may or may not be nearer than a target.

  Args:
    block: of users.
    users: [Q] rows of `block`.
    target: [Q] each.
    items: the catalogue.
    width: D.
    layout: of `items`.
    mesh: of `items`.
  """

  def local(items, distances, _, norms, users, target):
    part = distance.Block(distances[users], norms[users])
    states = _plain_states(width, part, target, items, layout, mesh)
    return _list_doubts(states, layout, mesh)

  out = (*_DOUBTS_OUT, PartitionSpec(None, mesh.axis_names))
  mapped = _map(local, mesh, NO_GAIN, out)
  return Doubts(
    *mapped(items, block.distances, NO_GAIN, block.norms, users, target)
  )


@functools.partial(
  jax.jit, static_argnames=("width", "shape", "layout", "mesh")
)
def injected_doubts(
  block: distance.Block,
  users: jax.Array,
  columns: jax.Array,
  target: Target,
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
) -> Doubts:
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
    items, distances, gain, norms, users, columns, target, reference, sign, grid
  ):
    if gain.cf is not None:
      gain = gain._replace(cf=gain.cf[users])
    certain, possible = _injected_keys(
      width,
      distance.Block(distances[users], norms[users]),
      target,
      items,
      gain,
      reference,
      sign,
      grid,
      shape,
      _counted(target, items, layout, mesh),
    )
    column = columns[:, None]
    states = critical.before(certain, column, shape).astype(jnp.int8)
    states = states + critical.before(possible, column, shape).astype(jnp.int8)
    return _list_doubts(states, layout, mesh)

  out = (*_DOUBTS_OUT, PartitionSpec(None, mesh.axis_names))
  return Doubts(
    *_map(local, mesh, gain, out)(
      items,
      block.distances,
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
