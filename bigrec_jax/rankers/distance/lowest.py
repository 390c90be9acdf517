"""The items of the lowest bounds, found in one pass over blocks of items.

A block of items meets a block of users; of its bounds only the least of each
group of a few neighbouring items is kept, and of those only the lowest of all
blocks so far. At the end the groups' items are scored once more. So a pass is
a matrix product, a few operations on scores that are still in the cache, and a
search among a thirtieth of them; it holds a block of scores, whatever I is.

Scores lie items x users: group minima are then minima of whole vectors of
users, which every backend does at the speed of the product (docs/performance).

Letters: B users of a block, I items, D width, C items of a block, G items of a
group, M groups kept, R items returned.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from bigrec_jax.rankers import counting, top_k
from bigrec_jax.rankers.combine import injection
from bigrec_jax.rankers.distance import distance, streamed

_GROUP = 32
# Scores of a block: on a CPU they stay in the cache of a core.
_BLOCK_SCORES = {"cpu": 1 << 19}
_ACCELERATOR_BLOCK_SCORES = 1 << 25
_MINIMA = 4096  # Group minima of one user that are searched at a time.
_ROUNDINGS = 16  # Of a logarithm and the operations around it.


class Weighting(NamedTuple):
  """What is injected, and the least distance under which.

  Attributes:
    gain: of the items.
    cf_range: each row's least CF score and its span, [B] float32; None where
      CF isn't injected.
    gammas: `injection.Gammas` of float32 scalars, at least 0.
    least: [B] float32, no less than the least distance but for a rounding.
  """

  gain: injection.Gain
  cf_range: tuple[np.ndarray, np.ndarray] | None
  gammas: Any
  least: np.ndarray


class Lowest(NamedTuple):
  """Items of each user; on the devices, or brought to the host.

  Attributes:
    bounds: [B, R] ascending lower bounds: of squared distances, or with
      weights of log fused distances; infinite where there are no more items.
    items: [B, R] int32.
    rest: [B], no other item has a lower bound than this.
    farthest: [B], a squared distance that the farthest item surely reaches.
    norms: [B], squared lengths of the centred queries.
  """

  bounds: Any
  items: Any
  rest: Any
  farthest: Any
  norms: Any


class Blocks(NamedTuple):
  """How the rows of a shard are cut.

  Attributes:
    items: C, a multiple of G.
    group: G.
    number: of blocks.
    together: blocks whose group minima are searched at a time.
  """

  items: int
  group: int
  number: int
  together: int

  @classmethod
  def of(cls, rows: int, users: int, most_items: int, mesh: Mesh) -> "Blocks":
    """Returns the blocks of a shard of `rows` items for B `users`.

    Args:
      rows: of a shard.
      users: B.
      most_items: of a block (`ground.block_items`).
      mesh: of the items.
    """
    platform = mesh.devices.flat[0].platform
    scores = _BLOCK_SCORES.get(platform, _ACCELERATOR_BLOCK_SCORES)
    items = max(1, min(rows, most_items, max(scores // users, 8 * _GROUP)))
    group = _GROUP if items >= 8 * _GROUP else 1
    items -= items % group
    number = -(-rows // items)
    together = min(number, max(1, _MINIMA // (items // group)))
    together = -(-number // -(-number // together))
    return cls(items, group, number, together)


@functools.partial(
  jax.jit, static_argnames=("count", "blocks", "layout", "mesh")
)
def lowest(
  queries: jax.Array,
  vectors: streamed.Vectors,
  weighting: Weighting | None,
  *,
  count: int,
  blocks: Blocks,
  layout: counting.ItemLayout,
  mesh: Mesh,
) -> Lowest:
  """Returns the `count` items with the lowest bounds of each user.

  Args:
    queries: [B, D] as embedded.
    vectors: of the catalogue.
    weighting: what to inject; None = squared distances are bounded.
    count: R, at most I.
    blocks: of each shard.
    layout: of the items.
    mesh: of the items.
  """
  rows, spread = PartitionSpec(mesh.axis_names), PartitionSpec()
  gain = injection.Gain(None, None) if weighting is None else weighting.gain
  rest = None if weighting is None else tuple(weighting[1:])

  def local(given, norms, gain, mean, queries, rest):
    shard = _Shard(given, norms, gain, mean, queries, rest, blocks, layout)
    return shard.lowest(counting.shard_index(mesh) * layout.rows, count, mesh)

  return Lowest(
    *jax.shard_map(
      local,
      mesh=mesh,
      in_specs=(rows, rows, injection.shards(gain, mesh)) + (spread,) * 3,
      out_specs=(spread,) * 5,
      check_vma=False,
    )(vectors.given, vectors.norms, gain, vectors.mean, queries, rest)
  )


class _Shard:
  """One device's rows, inside the `shard_map`."""

  def __init__(self, given, norms, gain, mean, queries, rest, blocks, layout):
    self._given, self._norms, self._gain = given, norms, gain
    self._mean = mean
    self._queries = queries - mean[None]
    self._own = distance.squares(self._queries)  # [B]
    self._rest, self._blocks, self._layout = rest, blocks, layout

  def lowest(self, first: jax.Array, count: int, mesh: Mesh) -> tuple:
    """Returns the parts of `Lowest`; the shard begins at item `first`."""
    groups = self._blocks.number * self._blocks.items // self._blocks.group
    kept = min(count, groups)
    minima, ids, farthest = self._pass(first, kept)
    bounds, columns = jax.lax.map(
      lambda user: self._again(first, *user),
      (jnp.arange(len(self._own), dtype=jnp.int32), ids),
    )  # [B, M * G]
    size = min(count, bounds.shape[1])
    bounds, places = top_k.stable_top_k(bounds, size)
    columns = first + jnp.take_along_axis(columns, places, axis=1)
    rest = jnp.minimum(
      minima[:, -1] if kept < groups else jnp.inf, bounds[:, -1]
    )
    names = mesh.axis_names
    rest = jax.lax.pmin(rest, names)
    bounds, items = top_k.gather_top_k(
      bounds, columns, min(count, size * mesh.size), mesh
    )
    rest = jnp.minimum(rest, bounds[:, -1])
    return bounds, items, rest, jax.lax.pmax(farthest, names), self._own

  def _pass(self, first: jax.Array, kept: int) -> tuple:
    """Returns the lowest group minima [B, M], their groups, the farthest."""
    size, group, number, together = self._blocks
    users, per_block = len(self._own), size // group

    def step(
      farthest: jax.Array, number: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
      part = functools.partial(streamed.block_of, number=number, size=size)
      start = jnp.minimum(number * size, self._layout.rows - size)
      column = start + jnp.arange(size, dtype=jnp.int32)
      real = (first + column < self._layout.num_items) & (
        column >= number * size
      )
      gain = injection.Gain(
        jax.tree.map(part, self._gain.popularity),
        None
        if self._gain.cf is None
        else jax.lax.dynamic_slice_in_dim(self._gain.cf, start, size, axis=1),
      )
      everyone = (self._queries, self._own, self._rest)
      bounds, squared = self._bounds(
        part(self._given), part(self._norms), gain, everyone, real
      )
      reached = jnp.where(real[:, None], squared, -jnp.inf).max(axis=0)
      minima = bounds.reshape(per_block, group, users).min(axis=1)
      return jnp.maximum(farthest, reached), minima

    def search(carry: tuple, numbers: jax.Array) -> tuple:
      farthest, values, ids = carry
      parts: Any
      farthest, parts = jax.lax.scan(step, farthest, numbers)
      minima = parts.reshape(-1, users).T  # [B, together * C / G]
      new = numbers[0] * per_block + jnp.arange(minima.shape[1])
      new = jnp.broadcast_to(new.astype(jnp.int32)[None], minima.shape)
      values, ids = top_k.merge_top_k(
        jnp.concatenate([values, minima], axis=1),
        jnp.concatenate([ids, new], axis=1),
        kept,
      )
      return (farthest, values, ids), None

    empty = (
      jnp.full(users, -jnp.inf, jnp.float32),
      jnp.full((users, kept), jnp.inf, jnp.float32),
      # A group of a block that isn't there: none of its items is real.
      jnp.full((users, kept), number * per_block, jnp.int32),
    )
    rounds = -(-number // together)
    numbers = jnp.arange(rounds * together, dtype=jnp.int32)
    (farthest, values, ids), _ = jax.lax.scan(
      search, empty, numbers.reshape(rounds, together)
    )
    return values, ids, farthest

  def _again(
    self, first: jax.Array, user: jax.Array, ids: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Returns one user's bounds and columns [M * G] of some groups."""
    size, group, _, _ = self._blocks
    number, place = jnp.divmod(ids, jnp.int32(size // group))
    start = jnp.minimum(number * size, self._layout.rows - size) + place * group
    columns = start[:, None] + jnp.arange(group, dtype=jnp.int32)[None]
    real = columns >= (number * size)[:, None]
    columns, real = columns.reshape(-1), real.reshape(-1)
    real &= first + columns < self._layout.num_items
    one = jax.tree.map(
      lambda x: x if x.ndim == 0 else x[user][None],
      (self._queries, self._own, self._rest),
    )
    gain = injection.Gain(
      jax.tree.map(lambda x: x[columns], self._gain.popularity),
      None if self._gain.cf is None else self._gain.cf[user, columns][None],
    )
    bounds, _ = self._bounds(
      self._given[columns], self._norms[columns], gain, one, real
    )
    return bounds[:, 0], columns

  def _bounds(
    self,
    given: jax.Array,  # [C, D]
    norms: jax.Array,  # [C]
    gain: injection.Gain,  # [C] and [B, C]
    users: tuple[jax.Array, jax.Array, Any],  # Queries, norms, the rest.
    real: jax.Array,  # [C]
  ) -> tuple[jax.Array, jax.Array]:
    """Returns bounds [C, B], infinite where not real, and those of squares."""
    queries, own, rest = users
    dots = jax.lax.dot_general(
      given - self._mean[None],
      queries,
      (((1,), (1,)), ((), ())),
      precision=jax.lax.Precision.HIGHEST,
      preferred_element_type=jnp.float32,
    )
    error = distance.squared_error(
      given.shape[1], own[None], norms[:, None], jnp
    )
    squared = (norms[:, None] + own[None]) - 2.0 * dots - error
    bounds = squared if rest is None else _fused(squared, gain, *rest)
    return jnp.where(real[:, None], bounds, jnp.inf), squared


def _fused(
  squared: jax.Array,
  gain: injection.Gain,
  cf_range: tuple[jax.Array, jax.Array] | None,
  gammas: injection.Gammas,
  least: jax.Array,
) -> jax.Array:
  """Returns lower bounds of log fused [C, B], of those of squares [C, B]."""
  weights, size = injection.log_weight(gain, cf_range, gammas)  # [1 or B, C]
  weights, size = weights.T, size.T
  down = jnp.float32(1 - 4 * distance.UNIT)
  least = least[None] * jnp.float32(1 + 4 * distance.UNIT)
  root = jnp.sqrt(jnp.maximum(squared, 0.0)) * down
  above = jnp.log(jnp.maximum(root - least, 0.0))
  off = jnp.float32(_ROUNDINGS * distance.UNIT) * (size + 1.0 + jnp.abs(above))
  # What may be the nearest has no bound: it comes first whatever gammas say.
  return jnp.where(above > -jnp.inf, above - weights - off, -jnp.inf)
