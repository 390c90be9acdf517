"""Ranks by counting and top-k lists over an item axis sharded on every device.

Whatever scores the items (a distance, a dot product, a lookup), the rank of a
target is the number of items strictly before it in a stable sort:

  rank = #(score before target's) + #(score equal and index lower)

so nothing is ever sorted. The item axis is padded to a multiple of the shards
and split over the whole mesh by `shard_map`; each device scores its own rows,
counts or keeps its best k, and one `psum` or `all_gather` joins the shards.
Callers stream users in blocks of a fixed size (see `user_blocks`), so that one
compiled program serves a run and a [users, items] matrix never exists.

Letters: B users of a block, I items, P shards, C items of a block, k list size.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Both trees lead with the named axis: (queries [B, ...], items [C, ...]) to
# float32 [B, C]. Pass a module-level function: it is a static argument of the
# compiled programs, so that a fresh lambda each call would recompile each call.
ScoreFn = Callable[[Any, Any], jax.Array]

# Top-k looks at the best of each group of this many items first. Near
# sqrt(C / k), which minimises groups + k * group; a power of two for the lanes.
_GROUP = 32


@dataclasses.dataclass(frozen=True)
class ItemLayout:
  """How I items lie on P shards, each of `blocks` blocks of `block` items.

  Shard p holds items [p * rows, (p + 1) * rows); indices past `num_items` are
  padding that no function here ever counts or returns.
  """

  num_items: int
  num_shards: int
  block: int
  blocks: int

  @property
  def rows(self) -> int:
    """Items of one shard, padding included."""
    return self.block * self.blocks

  @property
  def padded(self) -> int:
    """Items of all shards, padding included."""
    return self.rows * self.num_shards


def item_layout(num_items: int, mesh: Mesh, block_items: int) -> ItemLayout:
  """Returns the layout with the least padding whose blocks fit `block_items`.

  Args:
    num_items: I, at least 1.
    mesh: all its axes share the items.
    block_items: most items that one device scores at a time.
  """
  if num_items < 1 or block_items < 1:
    raise ValueError(f"{num_items=} {block_items=}, both at least 1 expected")
  shard = -(-num_items // mesh.size)
  # Large blocks are whole groups of `stable_top_k`; small ones stay tight.
  unit = _GROUP if min(shard, block_items) >= 8 * _GROUP else 1
  blocks = -(-shard // (block_items // unit * unit))
  block = -(-shard // (blocks * unit)) * unit
  return ItemLayout(num_items, mesh.size, block, blocks)


def put_items(items: Any, layout: ItemLayout, mesh: Mesh) -> Any:
  """Pads axis 0 of every array with zeros and shards it over the whole mesh.

  Args:
    items: tree of host arrays [I, ...] (np.memmap works; each device's rows
      are read on their own).
    layout: from `item_layout`.
    mesh: the mesh of `layout`.

  Returns:
    The tree of device arrays [layout.padded, ...].
  """

  def put(array: np.ndarray) -> jax.Array:
    if len(array) != layout.num_items:
      raise ValueError(f"{len(array)} rows, {layout.num_items} expected")
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    shape = (layout.padded, *array.shape[1:])

    def rows(index: tuple[slice, ...]) -> np.ndarray:
      start, stop, _ = index[0].indices(layout.padded)
      part = np.asarray(array[start:stop])
      missing = stop - start - len(part)
      if not missing:
        return part  # No copy of what may be most of the host's memory.
      return np.pad(part, [(0, missing)] + [(0, 0)] * (array.ndim - 1))

    return jax.make_array_from_callback(shape, sharding, rows)

  return jax.tree.map(put, items)


def shard_index(mesh: Mesh) -> jax.Array:
  """Returns this device's place along the item axis, inside a `shard_map`."""
  return jax.lax.axis_index(mesh.axis_names)


def stable_top_k(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
  """Returns the k lowest scores of each row; equal scores by lowest position.

  Exact, in two steps: the k best of the groups' minima name k groups that hold
  the k best items, since each group before an item's own brings at least one
  item before it (ties included); only those groups are searched.

  Args:
    scores: [B, C].
    k: at most C.

  Returns:
    (scores [B, k] ascending, positions [B, k] int32).
  """
  batch, count = scores.shape
  groups = count // _GROUP
  if groups <= k or count % _GROUP:
    values, positions = jax.lax.top_k(-scores, k)
    return -values, positions
  grouped = scores.reshape(batch, groups, _GROUP)
  _, best = jax.lax.top_k(-grouped.min(axis=-1), k)
  best = jnp.sort(best, axis=-1)  # Positions ascend again: ties stay stable.
  near = jnp.take_along_axis(grouped, best[:, :, None], axis=1)  # [B, k, G]
  values, inner = jax.lax.top_k(-near.reshape(batch, k * _GROUP), k)
  group = jnp.take_along_axis(best, inner // _GROUP, axis=1)
  return -values, group * _GROUP + inner % _GROUP


def merge_top_k(
  scores: jax.Array, indices: jax.Array, k: int
) -> tuple[jax.Array, jax.Array]:
  """Keeps the k lowest of [B, n] candidates; equals keep their order."""
  values, positions = jax.lax.top_k(-scores, k)
  return -values, jnp.take_along_axis(indices, positions, axis=1)


def gather_top_k(
  scores: jax.Array, indices: jax.Array, k: int, mesh: Mesh
) -> tuple[jax.Array, jax.Array]:
  """Joins each shard's ascending lists [B, n], inside a `shard_map`."""
  names = mesh.axis_names
  scores = jax.lax.all_gather(scores, names, axis=1, tiled=True)  # [B, P * n]
  indices = jax.lax.all_gather(indices, names, axis=1, tiled=True)
  return merge_top_k(scores, indices, k)


def _hide(
  scores: jax.Array,  # [B, C]
  first: jax.Array,  # index of the first column
  layout: ItemLayout,
  seen: jax.Array | None,  # [B, S], -1 = nothing
) -> jax.Array:
  """Sends padding, NaN and seen items behind every finite score."""
  columns = first + jnp.arange(scores.shape[1], dtype=jnp.int32)
  hidden = jnp.isnan(scores) | (columns >= layout.num_items)[None]
  scores = jnp.where(hidden, jnp.inf, scores)
  if seen is None:
    return scores
  place = jnp.where(seen < first, scores.shape[1], seen - first)
  rows = jnp.arange(scores.shape[0], dtype=jnp.int32)[:, None]
  return scores.at[rows, place].set(jnp.inf, mode="drop")


def _score(score_fn: ScoreFn, queries: Any, items: Any, descending: bool):
  scores = score_fn(queries, items).astype(jnp.float32)
  return -scores if descending else scores


def _map_shards(function: Callable, mesh: Mesh, num_outputs: int) -> Callable:
  """Maps (items, *replicated) over the shards of the item axis."""

  def call(items: Any, *replicated: Any) -> Any:
    specs = (PartitionSpec(mesh.axis_names),) + (PartitionSpec(),) * len(
      replicated
    )
    return jax.shard_map(
      function,
      mesh=mesh,
      in_specs=specs,
      out_specs=(PartitionSpec(),) * num_outputs,
      check_vma=False,  # all_gather's result is equal on every device.
    )(items, *replicated)

  return call


@functools.partial(
  jax.jit, static_argnames=("score_fn", "layout", "mesh", "descending")
)
def ranks(
  score_fn: ScoreFn,
  queries: Any,
  items: Any,
  targets: jax.Array,
  *,
  layout: ItemLayout,
  mesh: Mesh,
  descending: bool,
  groups: jax.Array | None = None,
  seen: jax.Array | None = None,
) -> jax.Array:
  """Returns each user's target rank (0 = best) by counting.

  Each device holds [B, layout.rows] scores of one block of users, so that the
  target is compared with bit for bit the score it has in the list.

  Args:
    score_fn: scores a block; see `ScoreFn`.
    queries: tree of [B, ...], on every device.
    items: tree from `put_items`.
    targets: [B] int32 item indices, or group numbers when `groups` is given.
    layout: of `items`.
    mesh: of `items`.
    descending: whether the highest score comes first.
    groups: [layout.padded] int32 from `put_items`: rows of one number count as
      one target, whose best row decides (BIGRec's rule for duplicate titles).
    seen: [B, S] int32 items that never come before a target, none twice in
      a row; -1 = nothing. A target that was seen keeps its score.

  Returns:
    [B] int32.
  """

  def local(shard: Any, queries: Any, targets: jax.Array, seen: Any) -> Any:
    items, groups = shard
    scores = _score(score_fn, queries, items, descending)
    first = shard_index(mesh) * layout.rows
    columns = first + jnp.arange(layout.rows, dtype=jnp.int32)
    scores = _hide(scores, first, layout, None)
    if groups is None:
      best, index = _at(scores, targets[:, None], first)[:, 0], targets
      best = jax.lax.pmin(best, mesh.axis_names)
    else:
      best, index = _best_of_group(scores, columns, groups, targets, mesh)
    count = count_before(scores, columns, best, index)
    if seen is not None:
      count -= _seen_before(scores, seen, first, best, index)
    return (jax.lax.psum(count, mesh.axis_names),)

  return _map_shards(local, mesh, 1)((items, groups), queries, targets, seen)[0]


def _at(scores: jax.Array, items: jax.Array, first: jax.Array) -> jax.Array:
  """Reads scores [B, C] at items [B, n]; infinity for other shards' items."""
  place = items - first
  inside = (place >= 0) & (place < scores.shape[1])
  found = jnp.take_along_axis(scores, jnp.where(inside, place, 0), axis=1)
  return jnp.where(inside, found, jnp.inf)


def _best_of_group(
  scores: jax.Array,  # [B, C], from `_hide`
  columns: jax.Array,  # [C]
  groups: jax.Array,  # [C]
  targets: jax.Array,  # [B], group numbers
  mesh: Mesh,
) -> tuple[jax.Array, jax.Array]:
  """Returns the score [B] and the item [B] of each group's first row."""
  own = groups[None] == targets[:, None]
  best = jnp.where(own, scores, jnp.inf).min(axis=1)
  best = jax.lax.pmin(best, mesh.axis_names)
  index = jnp.where(own & (scores == best[:, None]), columns[None], 2**31 - 1)
  return best, jax.lax.pmin(index.min(axis=1), mesh.axis_names)


def _seen_before(
  scores: jax.Array,  # [B, C], from `_hide`
  seen: jax.Array,  # [B, S], -1 = nothing
  first: jax.Array,
  best: jax.Array,  # [B]
  index: jax.Array,  # [B]
) -> jax.Array:
  """Counts the seen items of this shard that precede the target, [B] int32.

  Reading them out is far cheaper than writing infinities into a whole block.
  """
  inside = (seen >= first) & (seen < first + scores.shape[1])
  found = _at(scores, seen, first)
  tied = (found == best[:, None]) & (seen < index[:, None])
  before = (found < best[:, None]) | tied
  return (before & inside).sum(axis=1, dtype=jnp.int32)


def count_before(
  scores: jax.Array, columns: jax.Array, best: jax.Array, index: jax.Array
) -> jax.Array:
  """Counts what precedes (best, index) in a stable ascending sort.

  Args:
    scores: [B, C].
    columns: [C] int32, the item of each column.
    best: [B], the target's score.
    index: [B] int32, the target's item.

  Returns:
    [B] int32.
  """
  tied = (scores == best[:, None]) & (columns[None] < index[:, None])
  before = (scores < best[:, None]) | tied
  # XLA adds float32 several at a time on a CPU, which it does not int32:
  # three times faster, and exact: whole numbers up to 2**24 are float32s.
  exact = scores.shape[1] <= 1 << 24
  kind = jnp.float32 if exact else jnp.int32
  return before.sum(axis=1, dtype=kind).astype(jnp.int32)


@functools.partial(
  jax.jit, static_argnames=("score_fn", "k", "layout", "mesh", "descending")
)
def top_k(
  score_fn: ScoreFn,
  queries: Any,
  items: Any,
  k: int,
  *,
  layout: ItemLayout,
  mesh: Mesh,
  descending: bool,
  seen: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Returns each user's k best items, streaming blocks of items.

  Never more than [B, layout.block] scores on a device. Ties by lowest index.

  Args:
    score_fn: scores a block; see `ScoreFn`.
    queries: tree of [B, ...], on every device.
    items: tree from `put_items`.
    k: list length, at most layout.num_items.
    layout: of `items`.
    mesh: of `items`.
    descending: whether the highest score comes first.
    seen: [B, S] int32 items left out; -1 = nothing. Where fewer than k remain
      the list ends in entries of index -1 and score NaN.

  Returns:
    (scores [B, k], best first; items [B, k] int32).
  """
  if not 1 <= k <= layout.num_items:
    raise ValueError(f"{k=}, 1 <= k <= {layout.num_items} expected")
  batch = jax.tree.leaves(queries)[0].shape[0]

  def local(items: Any, queries: Any, seen: Any) -> Any:
    start = shard_index(mesh) * layout.rows
    blocks = jax.tree.map(
      lambda a: a.reshape(layout.blocks, layout.block, *a.shape[1:]), items
    )
    keep = min(k, layout.block)

    def step(carry: Any, block: Any) -> Any:
      number, part = block
      first = start + number * layout.block
      scores = _score(score_fn, queries, part, descending)
      scores = _hide(scores, first, layout, seen)
      values, positions = stable_top_k(scores, keep)
      # What is kept has lower indices than the block: first among equals.
      values = jnp.concatenate([carry[0], values], axis=1)
      indices = jnp.concatenate([carry[1], first + positions], axis=1)
      return merge_top_k(values, indices, k), None

    empty = (
      jnp.full((batch, k), jnp.inf, jnp.float32),
      jnp.full((batch, k), -1, jnp.int32),
    )
    numbers = jnp.arange(layout.blocks, dtype=jnp.int32)
    best, _ = jax.lax.scan(step, empty, (numbers, blocks))
    return gather_top_k(*best, k, mesh)

  values, indices = _map_shards(local, mesh, 2)(items, queries, seen)
  found = values < jnp.inf
  values = jnp.where(found, -values if descending else values, jnp.nan)
  return values, jnp.where(found, indices, -1)
