"""Full ranking on the device: user states, then ranks by counting.

No [users, items] matrix exists at any time: a block of users meets the item
table, which is split over the whole mesh, and only its ranks come back.

Letters: N users, U users of a block, D width, I items, T positions, S seen.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bigrec_jax import counting, sharding
from bigrec_jax.cf import blocks as blocks_lib, networks, rows
from bigrec_jax.cf.factors import Factors
from bigrec_jax.cf.spec import NetworkSpec

# Scores, float32, of one block of users on one device. A CPU wants a block to
# stay in its cache, and below the 32 MiB from which malloc gives every block
# fresh pages: 4 times faster than with 128 MiB (docs/performance.md).
_BLOCK_SCORES = {"cpu": 1 << 21}
_ACCELERATOR_BLOCK_SCORES = 1 << 25
# Positions of one block of histories: [U, T] has about this many.
_BLOCK_POSITIONS = 1 << 14
_SHORTEST = 8  # Histories up to this length share one program.


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
    """Prepares the blocks.

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
        self._mesh, counting.pad_rows(array[part], self.block)
      )
      for part in counting.user_blocks(self._number, self.block)
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
        self._mesh, counting.pad_rows(read(part), self.block)
      )
      for part in counting.user_blocks(self._number, self.block)
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


class Encoder:
  """Turns the histories of one split into user states.

  Histories of similar length share a block: of 50 positions Beauty's users
  fill seven on average.
  """

  def __init__(
    self, spec: NetworkSpec, history: np.ndarray, mesh: Mesh, block: int
  ):
    """Sorts the histories into blocks and puts them on the mesh.

    Args:
      spec: of the network.
      history: [N, H] int32, padded at the right with -1; the last
        spec.max_length items count.
      mesh: users are split over data and fsdp.
      block: the states are padded with zeros to a multiple of it.
    """
    self._spec, self._mesh = spec, mesh
    history = rows.newest(history, spec.max_length)
    length = rows.lengths(history)
    tokens = np.where(history >= 0, history, spec.num_items).astype(np.int32)
    groups, order = [], []
    for width in self._widths():
      inside = np.flatnonzero(
        (length <= width)
        & (length > (groups[-1][0].shape[-1] if groups else -1))
      )
      if len(inside):
        groups.append(self._group(tokens[inside, :width], length[inside]))
        order.append((inside, groups[-1][1].size))
    padded = -(-len(history) // block) * block
    total = sum(size for _, size in order)
    source = np.full(padded, total, np.int32)  # Past the end: a row of zeros.
    start = 0
    for inside, size in order:
      source[inside] = start + np.arange(len(inside), dtype=np.int32)
      start += size
    self._groups = sharding.put_replicated(mesh, groups)
    self._source = sharding.put_replicated(mesh, source)

  def _widths(self) -> list[int]:
    """Returns the lengths that programs are compiled for, ascending."""
    longest = self._spec.max_length
    if self._spec.network == "caser":  # Its image has one size.
      return [longest]
    widths = [_SHORTEST]
    while widths[-1] < longest:
      widths.append(2 * widths[-1])
    return [*widths[:-1], longest]

  def _group(
    self, tokens: np.ndarray, length: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns ([blocks, U, T], [blocks, U])."""
    unit = sharding.batch_size_unit(self._mesh)
    users = max(1, _BLOCK_POSITIONS // tokens.shape[1] // unit) * unit
    users = min(users, -(-len(tokens) // unit) * unit)
    blocks = -(-len(tokens) // users)
    tokens = counting.pad_rows(tokens, blocks * users)
    length = counting.pad_rows(length, blocks * users)
    return tokens.reshape(blocks, users, -1), length.reshape(blocks, users)

  def __call__(self, params: networks.Params) -> jax.Array:
    """Returns states [N padded, D], in the order of the histories."""
    return _encode(self._spec, self._mesh, params, self._groups, self._source)


def states(
  spec: NetworkSpec,
  params: networks.Params,
  history: np.ndarray,
  mesh: Mesh,
  users: int,
) -> np.ndarray:
  """Returns the states [N, D] of any histories, by one program for all calls.

  Args:
    spec: of the network.
    params: its parameters.
    history: [N, H] int32, padded at the right with -1; the last
      spec.max_length items count.
    mesh: users are split over data and fsdp.
    users: of a block, rounded up to what the mesh divides.
  """
  history = rows.newest(history, spec.max_length)
  length = rows.lengths(history)
  tokens = np.where(history >= 0, history, spec.num_items).astype(np.int32)
  unit = sharding.batch_size_unit(mesh)
  users = -(-users // unit) * unit
  source = np.arange(users, dtype=np.int32)
  found = []
  for part in counting.user_blocks(len(history), users):
    block = tuple(
      counting.pad_rows(x[part], users)[None] for x in (tokens, length)
    )
    inputs = sharding.put_replicated(mesh, ([block], source))
    encoded = _encode(spec, mesh, params, *inputs)
    found.append(np.asarray(encoded)[: len(tokens[part])])
  return np.concatenate(found)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _encode(
  spec: NetworkSpec,
  mesh: Mesh,
  params: networks.Params,
  groups: list[tuple[jax.Array, jax.Array]],
  source: jax.Array,
) -> jax.Array:
  def one(block):
    tokens, length = block
    tokens = sharding.constrain(tokens, mesh, ("batch", "length"))
    return networks.last_states(spec, params, tokens, length, None)

  states = [jax.lax.map(one, group) for group in groups]  # [blocks, U, D]
  flat = jnp.concatenate([s.reshape(-1, s.shape[-1]) for s in states])
  flat = jnp.concatenate([flat, jnp.zeros_like(flat[:1])])
  return sharding.constrain(flat[source], mesh, ("", ""))


def factors(
  states: jax.Array, head: networks.Head, num_users: int, num_items: int
) -> Factors:
  """Fetches the factorised scores of a network, its bias as a column."""
  states = sharding.to_host(states)[:num_users]
  kernel, bias = (sharding.to_host(x)[:num_items] for x in head)
  ones = np.ones((num_users, 1), np.float32)
  return Factors(
    np.concatenate([states, ones], axis=1),
    np.concatenate([kernel, bias[:, None]], axis=1),
  )
