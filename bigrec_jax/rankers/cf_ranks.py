"""Ranks by counting of whatever scores items as numbers: dot products or rows.

No [users, items] matrix exists at any time: a block of users meets the item
table, which is split over the whole mesh, and only its ranks come back.

Letters: N users, U users of a block, D width, I items, S seen.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bigrec_jax.cf import networks
from bigrec_jax.cf.factors import Factors
from bigrec_jax.devices import blocks as blocks_lib, sharding
from bigrec_jax.rankers import counting

# Scores, float32, of one block of users on one device. A CPU wants a block to
# stay in its cache, and below the 32 MiB from which malloc gives every block
# fresh pages: 4 times faster than with 128 MiB (docs/performance.md).
_BLOCK_SCORES = {"cpu": 1 << 21}
_ACCELERATOR_BLOCK_SCORES = 1 << 25


def user_block(num_items: int, mesh: Mesh, most: int) -> int:
  """Returns U, at most `most`: as many users as a device ranks at a time."""
  share = -(-num_items // mesh.size)
  users = blocks_lib.rows_at_once(
    share, mesh, _BLOCK_SCORES, _ACCELERATOR_BLOCK_SCORES
  )
  return int(np.clip(users, 1, most))


def dot(queries: jax.Array, items: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Scores a block: [U, D] with ([C, D], [C]) to [U, C]."""
  kernel, bias = items
  scores = jax.lax.dot_general(
    queries,
    kernel,
    (((1,), (1,)), ((), ())),
    precision=jax.lax.Precision.HIGHEST,  # Ties and near ties decide ranks.
  )
  return scores + bias[None]


def look_up(queries: jax.Array, items: jax.Array) -> jax.Array:
  """Reads a block from whole rows: [U, I] with [C] item numbers to [U, C]."""
  return jnp.take(queries, items, axis=1)


@functools.cache
def _placer(layout: counting.ItemLayout, mesh: Mesh) -> Callable:
  split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))

  def place(table: jax.Array) -> jax.Array:
    table = table[: layout.num_items]
    missing = layout.padded - layout.num_items
    return jnp.pad(table, [(0, missing)] + [(0, 0)] * (table.ndim - 1))

  return jax.jit(place, out_shardings=split)


class Ranker:
  """Ranks the targets of one split; holds what stays on the device.

  Attributes:
    block: U.
  """

  def __init__(
    self,
    targets: np.ndarray,
    num_items: int,
    mesh: Mesh,
    *,
    most_users: int,
    seen: np.ndarray | None,
  ):
    """Prepares the blocks_lib.

    Args:
      targets: [N] int32.
      num_items: I.
      mesh: all its devices share the items.
      most_users: of a block.
      seen: [N, S] int32 items that never come before the target, padded with
        -1; None = nothing is masked (BIGRec's protocol).
    """
    self.block = user_block(num_items, mesh, min(most_users, len(targets)))
    self._number = len(targets)
    self._mesh = mesh
    self._layout = counting.item_layout(num_items, mesh, num_items)
    self._targets = self._put(targets)
    self._seen = None if seen is None else self._put(_distinct(seen))

  def _put(self, array: np.ndarray) -> list[jax.Array]:
    return [
      sharding.put_replicated(
        self._mesh, blocks_lib.pad_rows(array[part], self.block)
      )
      for part in blocks_lib.user_blocks(self._number, self.block)
    ]

  def head(self, head: networks.Head, states: jax.Array) -> np.ndarray:
    """Returns the ranks [N] int32 of states [>= N, D] under a head."""
    place = _placer(self._layout, self._mesh)
    items = (place(head.kernel), place(head.bias))
    blocks = (
      _slice(states, start, self.block)
      for start in range(0, self._number, self.block)
    )
    return self._rank(dot, blocks, items)

  def factors(self, factors: Factors) -> np.ndarray:
    """Returns the ranks [N] int32 of host factors."""
    bias = np.zeros(len(factors.items), np.float32)
    items = counting.put_items((factors.items, bias), self._layout, self._mesh)
    return self._rank(dot, iter(self._put(factors.states)), items)

  def score_rows(self, read: Callable[[slice], np.ndarray]) -> np.ndarray:
    """Returns the ranks [N] int32 of whole rows of scores.

    Args:
      read: users to float32 [users, I]; called once for each block.
    """
    numbers = np.arange(self._layout.num_items, dtype=np.int32)
    items = counting.put_items(numbers, self._layout, self._mesh)
    blocks = (
      sharding.put_replicated(
        self._mesh, blocks_lib.pad_rows(read(part), self.block)
      )
      for part in blocks_lib.user_blocks(self._number, self.block)
    )
    return self._rank(look_up, blocks, items)

  def _rank(
    self,
    score: counting.ScoreFn,
    blocks: Iterator[jax.Array],
    items: Any,
  ) -> np.ndarray:
    found = []
    for number, queries in enumerate(blocks):
      found.append(
        counting.ranks(
          score,
          queries,
          items,
          self._targets[number],
          layout=self._layout,
          mesh=self._mesh,
          descending=True,
          seen=None if self._seen is None else self._seen[number],
        )
      )
    return np.concatenate([np.asarray(x) for x in found])[: self._number]


def _distinct(seen: np.ndarray) -> np.ndarray:
  """Replaces an item's repeats in a row by -1; rows lose their order."""
  seen = np.sort(seen, axis=1)
  again = np.pad(seen[:, 1:] == seen[:, :-1], [(0, 0), (1, 0)])
  return np.where(again, np.int32(-1), seen)


@functools.partial(jax.jit, static_argnums=2)
def _slice(states: jax.Array, start: jax.Array, size: int) -> jax.Array:
  return jax.lax.dynamic_slice_in_dim(states, start, size)
