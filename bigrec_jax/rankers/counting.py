"""Ranks by counting over an item axis that is sharded on every device.

Whatever scores the items (a distance, a dot product, a lookup), the rank of a
target is the number of items strictly before it in a stable sort:

  rank = #(score before target's) + #(score equal and index lower)

so nothing is ever sorted. The item axis is padded to a multiple of the shards
and split over the whole mesh by `shard_map`; each device scores its own rows,
block by block, and counts; one `psum` joins the shards (`top_k` makes lists
the same way). Callers stream users in blocks of a fixed size (see `engine`), so
that one compiled program serves a run and a [users, items] matrix never exists.

Letters: B users of a block, I items, P shards, C items of a block.
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
GROUP = 32
_LAST = 2**31 - 1  # Behind every item.


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
  unit = GROUP if min(shard, block_items) >= 8 * GROUP else 1
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

    return _from_parts(shape, sharding, rows)

  return jax.tree.map(put, items)


def put_columns(
  array: np.ndarray, rows: int, layout: ItemLayout, mesh: Mesh
) -> jax.Array:
  """Shards [n, I] over the item axis, padded to [rows, I'] with zeros."""

  def part(index: tuple[slice, ...]) -> np.ndarray:
    start, stop, _ = index[1].indices(layout.padded)
    piece = np.zeros((rows, stop - start), np.float32)
    given = array[:, start:stop]
    piece[: given.shape[0], : given.shape[1]] = given
    return piece

  sharding = NamedSharding(mesh, PartitionSpec(None, mesh.axis_names))
  return _from_parts((rows, layout.padded), sharding, part)


def _from_parts(
  shape: tuple[int, ...],
  sharding: NamedSharding,
  part: Callable[[tuple[slice, ...]], np.ndarray],
) -> jax.Array:
  # Its stubs know of devices that have no part; under a mesh each has one.
  whole: Any = part
  return jax.make_array_from_callback(shape, sharding, whole)


def columns(first: jax.Array, layout: ItemLayout) -> jax.Array:
  """Returns the items [layout.block] of a block that begins at `first`."""
  return first + jnp.arange(layout.block, dtype=jnp.int32)


def shard_index(mesh: Mesh) -> jax.Array:
  """Returns this device's place along the item axis, inside a `shard_map`."""
  return jax.lax.axis_index(mesh.axis_names)


def hide(
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


def scored(
  score_fn: ScoreFn, queries: Any, items: Any, descending: bool
) -> jax.Array:
  """Returns float32 [B, C] of which the lowest comes first."""
  scores = score_fn(queries, items).astype(jnp.float32)
  return -scores if descending else scores


def map_shards(function: Callable, mesh: Mesh, num_outputs: int) -> Callable:
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

  Where a shard is one block, its scores are made once. Where it is several,
  they are made twice, a block at a time: to know the target's score, then to
  count. Both times it is the same code of one loop, so that the target is
  compared with bit for bit the score that it has in the list.

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
      Padding has 0, which does no harm: it scores infinity and comes last.
    seen: [B, S] int32 items that never come before a target, none twice in
      a row; -1 = nothing. A target that was seen keeps its score.

  Returns:
    [B] int32.
  """

  def local(shard: Any, queries: Any, targets: jax.Array, seen: Any) -> Any:
    items, numbers = shard
    start = shard_index(mesh) * layout.rows

    def score(items: Any, first: jax.Array) -> tuple[jax.Array, jax.Array]:
      scores = scored(score_fn, queries, items, descending)
      return hide(scores, first, layout, None), columns(first, layout)

    def own(scores: Any, columns: jax.Array, numbers: Any) -> Any:
      return _own(scores, columns, numbers, targets)

    def before(scores: Any, columns: jax.Array, best: Any, index: Any) -> Any:
      count = count_before(scores, columns, best, index)
      if seen is not None:
        count -= _seen_before(scores, seen, columns[0], best, index)
      return count

    if layout.blocks == 1:
      scores, items_of = score(items, start)
      target = _first(own(scores, items_of, numbers), mesh)
      count = before(scores, items_of, *target)
    else:
      count = _count_twice(
        (score, own, before), (items, numbers), start, targets, layout, mesh
      )
    return (jax.lax.psum(count, mesh.axis_names),)

  return map_shards(local, mesh, 1)((items, groups), queries, targets, seen)[0]


def _count_twice(
  parts: tuple[Callable, Callable, Callable],
  shard: Any,
  start: jax.Array,
  targets: jax.Array,
  layout: ItemLayout,
  mesh: Mesh,
) -> jax.Array:
  """Counts a shard's items before each target, [B] int32, block by block.

  Args:
    parts: score, own and before of `ranks`.
    shard: (items, group numbers or None) [layout.rows, ...].
    start: the shard's first item.
    targets: [B].
    layout: of the items.
    mesh: of the items.
  """
  score, own, before = parts
  blocks = jax.tree.map(
    lambda a: a.reshape(layout.blocks, layout.block, *a.shape[1:]), shard
  )
  numbers = jnp.arange(layout.blocks, dtype=jnp.int32)
  nobody = jnp.full(targets.shape, jnp.inf), jnp.full_like(targets, _LAST)

  def look(target: Any, _: Any) -> tuple[Any, jax.Array]:
    def step(carry: Any, block: Any) -> tuple[Any, None]:
      found, count = carry
      number, (items, own_numbers) = block
      scores, items_of = score(items, start + number * layout.block)
      found = _lower(found, own(scores, items_of, own_numbers))
      return (found, count + before(scores, items_of, *target)), None

    empty = (nobody, jnp.zeros_like(targets))
    (found, count), _ = jax.lax.scan(step, empty, (numbers, blocks))
    return _first(found, mesh), count

  # The first time nothing is known of the target and the count means nothing.
  _, counts = jax.lax.scan(look, nobody, length=2)
  return counts[1]


def _own(
  scores: jax.Array,  # [B, C], from `hide`
  columns: jax.Array,  # [C]
  groups: jax.Array | None,  # [C]
  targets: jax.Array,  # [B] items, or group numbers
) -> tuple[jax.Array, jax.Array]:
  """Returns the score [B] and the item [B] of each target's best row here."""
  if groups is None:
    best = _at(scores, targets[:, None], columns[0])[:, 0]
    return best, targets
  own = groups[None] == targets[:, None]
  best = jnp.where(own, scores, jnp.inf).min(axis=1)
  index = jnp.where(own & (scores == best[:, None]), columns[None], _LAST)
  return best, index.min(axis=1)


def _lower(one: Any, other: Any) -> tuple[jax.Array, jax.Array]:
  """Returns the lower of two (scores [B], items [B]); of equals, by item."""
  (score, item), (score_2, item_2) = one, other
  best = jnp.minimum(score, score_2)
  item = jnp.where(score == best, item, _LAST)
  item_2 = jnp.where(score_2 == best, item_2, _LAST)
  return best, jnp.minimum(item, item_2)


def _first(own: Any, mesh: Mesh) -> tuple[jax.Array, jax.Array]:
  """Returns the lowest (score [B], item [B]) of all shards."""
  score, item = own
  best = jax.lax.pmin(score, mesh.axis_names)
  item = jnp.where(score == best, item, _LAST)
  return best, jax.lax.pmin(item, mesh.axis_names)


def _at(scores: jax.Array, items: jax.Array, first: jax.Array) -> jax.Array:
  """Reads scores [B, C] at items [B, n]; infinity for other shards' items."""
  place = items - first
  inside = (place >= 0) & (place < scores.shape[1])
  found = jnp.take_along_axis(scores, jnp.where(inside, place, 0), axis=1)
  return jnp.where(inside, found, jnp.inf)


def _seen_before(
  scores: jax.Array,  # [B, C], from `hide`
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
