"""Exact lists of the k best items, streamed over a sharded item axis.

Each device keeps the k best of the blocks of items that it has scored; one
`all_gather` joins the shards. Nothing is sorted but candidates.

Letters: B users of a block, I items, P shards, C items of a block, k list size.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bigrec_jax.rankers import counting


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
  groups = count // counting.GROUP
  if groups <= k or count % counting.GROUP:
    values, positions = jax.lax.top_k(-scores, k)
    return -values, positions
  grouped = scores.reshape(batch, groups, counting.GROUP)
  _, best = jax.lax.top_k(-grouped.min(axis=-1), k)
  best = jnp.sort(best, axis=-1)  # Positions ascend again: ties stay stable.
  near = jnp.take_along_axis(grouped, best[:, :, None], axis=1)  # [B, k, G]
  values, inner = jax.lax.top_k(-near.reshape(batch, k * counting.GROUP), k)
  group = jnp.take_along_axis(best, inner // counting.GROUP, axis=1)
  return -values, group * counting.GROUP + inner % counting.GROUP


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


@functools.partial(
  jax.jit, static_argnames=("score_fn", "k", "layout", "mesh", "descending")
)
def top_k(
  score_fn: counting.ScoreFn,
  queries: Any,
  items: Any,
  k: int,
  *,
  layout: counting.ItemLayout,
  mesh: Mesh,
  descending: bool,
  seen: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Returns each user's k best items, streaming blocks of items.

  Never more than [B, layout.block] scores on a device. Ties by lowest index.

  Args:
    score_fn: scores a block; see `counting.ScoreFn`.
    queries: tree of [B, ...], on every device.
    items: tree from `counting.put_items`.
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
    start = counting.shard_index(mesh) * layout.rows
    blocks = jax.tree.map(
      lambda a: a.reshape(layout.blocks, layout.block, *a.shape[1:]), items
    )
    keep = min(k, layout.block)

    def step(carry: Any, block: Any) -> Any:
      number, part = block
      first = start + number * layout.block
      scores = counting.scored(score_fn, queries, part, descending)
      scores = counting.hide(scores, first, layout, seen)
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

  values, indices = counting.map_shards(local, mesh, 2)(items, queries, seen)
  found = values < jnp.inf
  values = jnp.where(found, -values if descending else values, jnp.nan)
  return values, jnp.where(found, indices, -1)
