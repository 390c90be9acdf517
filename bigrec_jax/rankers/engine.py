"""Exact ranks and lists of whatever is a `Ranker`, on the whole mesh.

A block of users meets the item table, which is split over the devices, block
by block; only ranks or lists come back, and a [users, items] matrix never
exists. One compiled program serves all blocks and all later calls.

Letters: N users, U users of a block, I items, S seen or hidden, k list size.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bigrec_jax.devices import blocks as blocks_lib, sharding
from bigrec_jax.rankers import counting, protocol, top_k
from bigrec_jax.workdir import parts

# Scores, float32, of one block of users and items on one device. A CPU wants a
# block to stay in its cache, and below the 32 MiB from which malloc gives every
# block fresh pages: 4 times faster than with 128 MiB (docs/performance.md).
_BLOCK_SCORES = {"cpu": 1 << 21}
_ACCELERATOR_BLOCK_SCORES = 1 << 25
# Fewer users than this would do little with the items that a block reads.
_ENOUGH = 64
_MOST_QUERIES = 1 << 26  # Numbers that a block of users may hold.


def block_sizes(num_items: int, mesh: Mesh, most: int) -> tuple[int, int]:
  """Returns the users and the items that a device scores at a time.

  All its items, if then there are enough users; else all `most` users and as
  many items as have room beside them.

  Args:
    num_items: I.
    mesh: all its devices share the items.
    most: users, at least 1.
  """
  platform = mesh.devices.flat[0].platform
  scores = _BLOCK_SCORES.get(platform, _ACCELERATOR_BLOCK_SCORES)
  share = -(-num_items // mesh.size)
  users = min(most, scores // share)
  if users >= min(most, _ENOUGH):
    return users, share
  return most, min(share, max(_ENOUGH, scores // most))


class _Blocks:
  """Users and items as blocks: what ranks and lists have in common."""

  def __init__(self, num_users: int, num_items: int, mesh: Mesh, most: int):
    self.number, self.mesh = num_users, mesh
    self.users, items = block_sizes(num_items, mesh, min(most, num_users))
    self.layout = counting.item_layout(num_items, mesh, items)

  def of(self, ranker: protocol.Ranker) -> int:
    """Returns U of a ranker: fewer users where each is much to hold."""
    return max(1, min(self.users, _MOST_QUERIES // ranker.width))

  def put(self, array: np.ndarray, users: int) -> jax.Array:
    """Returns a block of users' rows, padded to U, on every device."""
    padded = blocks_lib.pad_rows(array, users)
    return sharding.put_replicated(self.mesh, padded)

  def each(self, ranker: protocol.Ranker) -> Iterator[Any]:
    """Yields the queries of each block of users, on the devices."""
    users = self.of(ranker)
    for start in range(0, self.number, users):
      queries = ranker.queries(slice(start, start + users))
      yield jax.tree.map(
        lambda x: x if isinstance(x, jax.Array) else self.put(x, users), queries
      )

  def items(self, ranker: protocol.Ranker) -> Any:
    """Returns a ranker's items on the mesh."""
    place = _placer(self.layout, self.mesh)

    def one(array: np.ndarray | jax.Array) -> jax.Array:
      if isinstance(array, jax.Array):
        return place(array)
      own = array[: self.layout.num_items]
      return counting.put_items(own, self.layout, self.mesh)

    return jax.tree.map(one, ranker.items())


class Ranks:
  """Ranks the targets of one split; holds what stays on the device.

  Attributes:
    block: U, most users of a block.
  """

  def __init__(
    self,
    targets: np.ndarray,
    num_items: int,
    mesh: Mesh,
    *,
    most_users: int,
    seen: np.ndarray | None = None,
    groups: np.ndarray | None = None,
  ):
    """Prepares the blocks.

    Args:
      targets: [N] catalogue rows.
      num_items: I.
      mesh: all its devices share the items.
      most_users: of a block.
      seen: [N, S] int32 items that never come before the target, padded with
        -1; None = nothing is masked (BIGRec's protocol).
      groups: [I] int32, `Catalogue.groups`: a target's rank is the best of its
        group's (BIGRec's rule for duplicate titles); None = each row is its
        own target.
    """
    blocks = _Blocks(len(targets), num_items, mesh, most_users)
    self._blocks, self.block = blocks, blocks.users
    self._groups = None
    if groups is not None:
      groups = np.asarray(groups, np.int32)
      self._groups = counting.put_items(groups, blocks.layout, mesh)
      targets = groups[targets]
    self._targets = np.asarray(targets, np.int32)
    self._seen = None if seen is None else _distinct(seen)
    self._put: dict[int, list[tuple[jax.Array, jax.Array | None]]] = {}

  def _users(self, users: int) -> list[tuple[jax.Array, jax.Array | None]]:
    """Returns each block's targets and seen items; put on the devices once."""
    if users not in self._put:
      put = functools.partial(self._blocks.put, users=users)
      self._put[users] = [
        (
          put(self._targets[part]),
          None if self._seen is None else put(self._seen[part]),
        )
        for part in blocks_lib.user_blocks(len(self._targets), users)
      ]
    return self._put[users]

  def __call__(self, ranker: protocol.Ranker) -> np.ndarray:
    """Returns the ranks [N] int32, 0 = best."""
    blocks = self._blocks
    items = blocks.items(ranker)
    users = self._users(blocks.of(ranker))
    found = [
      counting.ranks(
        ranker.score,
        queries,
        items,
        targets,
        layout=blocks.layout,
        mesh=blocks.mesh,
        descending=True,
        groups=self._groups,
        seen=seen,
      )
      for queries, (targets, seen) in zip(
        blocks.each(ranker), users, strict=True
      )
    ]
    return np.concatenate([np.asarray(x) for x in found])[: blocks.number]


def ranks_once(
  once: parts.Once, key: str, ranks_of: Ranks, ranker: protocol.Ranker
) -> np.ndarray:
  """Returns the ranks [N] of a ranker, or those that are known by a key."""
  return once(key, lambda: {"ranks": ranks_of(ranker)})["ranks"]


def lists(
  ranker: protocol.Ranker,
  num_users: int,
  num_items: int,
  mesh: Mesh,
  *,
  k: int,
  most_users: int,
  hidden: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns each user's first k items.

  Args:
    ranker: of these users and items.
    num_users: N, at least 1.
    num_items: I.
    mesh: all its devices share the items.
    k: list length, at most I.
    most_users: of a block.
    hidden: [N, S] int32 items left out, padded with -1; None = nothing.

  Returns:
    (scores [N, k] float32, items [N, k] int32), best first; where fewer than k
    remain, a list ends in items of -1 with a score of NaN.
  """
  blocks = _Blocks(num_users, num_items, mesh, most_users)
  items, users = blocks.items(ranker), blocks.of(ranker)
  found = []
  for number, queries in enumerate(blocks.each(ranker)):
    part = slice(number * users, (number + 1) * users)
    found.append(
      top_k.top_k(
        ranker.score,
        queries,
        items,
        k,
        layout=blocks.layout,
        mesh=mesh,
        descending=True,
        seen=None if hidden is None else blocks.put(hidden[part], users),
      )
    )
  scores, rows = (
    np.concatenate([np.asarray(x) for x in part])[:num_users]
    for part in zip(*found, strict=True)
  )
  return scores, rows


@functools.cache
def _placer(layout: counting.ItemLayout, mesh: Mesh) -> Callable:
  split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))

  def place(table: jax.Array) -> jax.Array:
    table = table[: layout.num_items]
    missing = layout.padded - layout.num_items
    return jnp.pad(table, [(0, missing)] + [(0, 0)] * (table.ndim - 1))

  return jax.jit(place, out_shardings=split)


def _distinct(seen: np.ndarray) -> np.ndarray:
  """Replaces an item's repeats in a row by -1; rows lose their order."""
  seen = np.sort(seen, axis=1)
  again = np.pad(seen[:, 1:] == seen[:, :-1], [(0, 0), (1, 0)])
  return np.where(again, np.int32(-1), seen)
