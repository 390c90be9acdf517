"""How many items are certainly, and possibly, nearer than a target.

Squared distances are float32 with a known error bound: an item is certainly
nearer, possibly nearer, or not. Where the two counts agree the rank is
decided; `plain_doubts` lists the few items where they don't, and `resolution`
compares those in float64. `sweep` does the same under injection.

Letters: B users, Q questions about one user each, C items of a shard.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from bigrec_jax.rankers import counting, top_k
from bigrec_jax.rankers.combine import injection
from bigrec_jax.rankers.distance import distance

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


def columns_of(layout: counting.ItemLayout, mesh: Mesh) -> jax.Array:
  """Returns the items of a shard's columns, inside a `shard_map`."""
  first = counting.shard_index(mesh) * layout.rows
  return first + jnp.arange(layout.rows, dtype=jnp.int32)


def counted(
  target: Target, items: distance.Items, layout: counting.ItemLayout, mesh: Mesh
) -> jax.Array:
  """Returns which [B, C] items may count: real ones outside the group."""
  real = columns_of(layout, mesh) < layout.num_items
  return real[None] & (items.groups[None] != target.group[:, None])


def map_items(
  function: Callable, mesh: Mesh, gain: injection.Gain, out: Any
) -> Callable:
  """Maps (items, squared, gain, *whole) over shards of the item axis."""
  rows = PartitionSpec(mesh.axis_names)
  across = PartitionSpec(None, mesh.axis_names)
  gain_spec = injection.shards(gain, mesh)

  def call(items: Any, squared: Any, gain: Any, *whole: Any) -> Any:
    return jax.shard_map(
      function,
      mesh=mesh,
      in_specs=(rows, across, gain_spec) + (PartitionSpec(),) * len(whole),
      out_specs=out,
      check_vma=False,
    )(items, squared, gain, *whole)

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

  def local(items, squared, _, norms, target):
    state = plain_states(
      width, distance.Block(squared, norms), target, items, layout, mesh
    )
    counts = (state == 2, state > 0)
    return tuple(
      jax.lax.psum(c.sum(axis=1, dtype=jnp.int32), mesh.axis_names)
      for c in counts
    )

  out = (PartitionSpec(), PartitionSpec())
  mapped = map_items(local, mesh, NO_GAIN, out)
  return mapped(items, block.squared, NO_GAIN, block.norms, target)


def plain_states(
  width: int,
  block: distance.Block,
  target: Target,
  items: distance.Items,
  layout: counting.ItemLayout,
  mesh: Mesh,
) -> jax.Array:
  """Returns [B, C] int8: 2 certainly nearer, 1 possibly, 0 not."""
  error = distance.squared_error(
    width, block.norms[:, None], items.norms[None], jnp
  )
  # Squares are compared, so that this pass has no roots; the target's was
  # exact before three roundings.
  bar = (target.distance * target.distance)[:, None]
  error = error + jnp.float32(4 * distance.UNIT) * bar
  real = counted(target, items, layout, mesh)
  certain = real & (block.squared + error < bar)
  possible = real & (block.squared - error <= bar)
  return certain.astype(jnp.int8) + possible.astype(jnp.int8)


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


DOUBTS_OUT = (PartitionSpec(), PartitionSpec(), PartitionSpec())


def list_doubts(
  states: jax.Array, layout: counting.ItemLayout, mesh: Mesh
) -> tuple[jax.Array, ...]:
  """Counts and lists a shard's states [Q, C], joined over the shards."""
  # The list and the count must come from the very same bits.
  states = jax.lax.optimization_barrier(states)
  columns = columns_of(layout, mesh)
  doubtful = states == 1
  # Equal scores come by position: the first doubtful items of the shard.
  found, places = top_k.stable_top_k(
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

  def local(items, squared, _, norms, users, target):
    part = distance.Block(squared[users], norms[users])
    states = plain_states(width, part, target, items, layout, mesh)
    return list_doubts(states, layout, mesh)

  out = (*DOUBTS_OUT, PartitionSpec(None, mesh.axis_names))
  mapped = map_items(local, mesh, NO_GAIN, out)
  return Doubts(
    *mapped(items, block.squared, NO_GAIN, block.norms, users, target)
  )
