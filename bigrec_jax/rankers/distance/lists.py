"""The items that a prediction is grounded to: each user's nearest few.

Candidates are the items whose fused distance has the lowest float32 bounds, in
logarithms: a gamma of 100 takes fused distances below what float32 can hold.
Their order is then decided exactly, like a rank, and a list is taken only as
far as no other item can come before its end.

Letters: n users of a block, padded to B on the device, m some of them, C items
of a shard, c candidates.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from bigrec_jax.devices import blocks
from bigrec_jax.rankers import counting, top_k
from bigrec_jax.rankers.combine import injection
from bigrec_jax.rankers.distance import distance, ranking, user_block

# Candidates beyond k: bounds may misplace near-equal items at the border.
_SLACK = 32
# More candidates than this for a whole block would be slower than to go over
# the catalogue for the users in doubt.
_MOST_CANDIDATES = 1024
_ROUNDINGS = 16  # Of a logarithm and the operations around it.

# (rows of the block [m], items [m, c]) to which may be listed [m, c].
_Keep = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Listed(NamedTuple):
  """Items of n users, best first.

  Attributes:
    items: [n, k] int32 catalogue rows; -1 = there are no more.
    fused: [n, k] float64, shrinkage * (d - min d).
    distances: [n, k] float64, d.
  """

  items: np.ndarray
  fused: np.ndarray
  distances: np.ndarray


def top_items(
  block: user_block.UserBlock,
  weights: injection.Injection,
  gammas: injection.Gammas,
  k: int,
) -> Listed:
  """Returns each user's k first items by fused distance.

  Equal fused distances are in catalogue order, as in a stable ascending sort.

  Args:
    block: users with their distances.
    weights: what to inject; neither part = plain distance.
    gammas: how strongly.
    k: list length, at most the number of items.
  """

  def keep(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    del users
    return np.ones(items.shape, bool)

  return _search(block, weights, gammas, k, 0, keep)


def new_titles(
  block: user_block.UserBlock,
  weights: injection.Injection,
  gammas: injection.Gammas,
  k: int,
  hidden: np.ndarray,
) -> Listed:
  """Returns each user's k first items of different titles, none of them hidden.

  Args:
    block: users with their distances.
    weights: what to inject.
    gammas: how strongly.
    k: list length, at most the number of items.
    hidden: [n, H] catalogue rows, padded with -1; rows of the same title are
      hidden with them.
  """
  groups = block.table.groups
  # A power of two, so that few lengths of histories mean few programs.
  spare = 1 << max(0, hidden.shape[1] - 1).bit_length()

  def keep(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    kept = np.zeros(items.shape, bool)
    for row, own, without in zip(kept, items, hidden[users], strict=True):
      titles = groups[own]
      row[np.unique(titles, return_index=True)[1]] = True
      row &= ~np.isin(titles, groups[without[without >= 0]])
    return kept

  return _search(block, weights, gammas, k, spare, keep)


def _search(
  block: user_block.UserBlock,
  weights: injection.Injection,
  gammas: injection.Gammas,
  k: int,
  spare: int,
  keep: _Keep,
) -> Listed:
  """Returns the k first items that `keep` leaves; asks for more until sure."""
  total = len(block.table.host)
  everyone = np.arange(len(block))
  count = k + spare + _SLACK
  while True:
    count = min(count, total)
    found, sure = _candidates(block, weights, gammas, count)
    kept = keep(everyone, found.items) & sure
    enough = kept.sum(axis=1) >= k
    if count == total or enough.all() or 4 * count > _MOST_CANDIDATES:
      break
    count *= 4  # Many rows share titles, or are nearly equal.
  result = _cut(found, kept, k)
  if count == total:
    return result
  everything = np.arange(total, dtype=np.int32)[None]
  for user in np.flatnonzero(~enough):
    own = everyone[user : user + 1]
    whole, _ = _in_order(block, weights, gammas, own, everything)
    only = _cut(whole, keep(own, whole.items), k)
    for column, part in zip(result, only, strict=True):
      column[user] = part[0]
  return result


def _cut(found: Listed, kept: np.ndarray, k: int) -> Listed:
  """Returns the first k kept of each row; -1 where there are no more."""
  order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
  items, fused, distances = (
    np.take_along_axis(x, order, axis=1) for x in found
  )
  kept = np.take_along_axis(kept, order, axis=1)
  return Listed(np.where(kept, items, -1).astype(np.int32), fused, distances)


def _candidates(
  block: user_block.UserBlock,
  weights: injection.Injection,
  gammas: injection.Gammas,
  count: int,
) -> tuple[Listed, np.ndarray]:
  """Returns `count` candidates in exact order, and how far that is certain.

  Returns:
    (candidates, [n, count] bool: nothing else can come before this one).
  """
  table = block.table
  cf_range = None
  if weights.cf is not None:
    cf_range = tuple(
      blocks.pad_rows(part.astype(np.float32), block.rows)
      for part in (weights.cf.low, weights.cf.span)
    )
  bounds, items = _lowest(
    block.device,
    table.items,
    weights.gain,
    blocks.pad_rows(block.least.astype(np.float32), block.rows),
    cf_range,
    injection.Gammas(*map(np.float32, gammas)),
    width=block.queries.shape[1],
    count=count,
    layout=table.layout,
    mesh=table.mesh,
  )
  items = np.asarray(items)[: len(block)]  # [n, count]
  everyone = np.arange(len(block))
  found, logs = _in_order(block, weights, gammas, everyone, items)
  if count == len(table.host):
    return found, np.ones(items.shape, bool)
  # Whatever isn't a candidate has no lower bound than the last that is.
  last = np.asarray(bounds)[: len(block), -1:]
  return found, logs < last


def _in_order(
  block: user_block.UserBlock,
  weights: injection.Injection,
  gammas: injection.Gammas,
  rows: np.ndarray,
  items: np.ndarray,
) -> tuple[Listed, np.ndarray]:
  """Sorts items [m, c] of users `rows` [m] by fused distance, then by index.

  Returns:
    (the items, logarithms of their fused distances [m, c]).
  """
  users = np.repeat(rows, items.shape[1])
  flat = items.ravel()
  exact = distance.exact_pairs(block.queries, block.table, users, flat)
  least = block.least[users]
  fused = weights.shrinkage(users, flat, gammas) * (exact - least)
  with np.errstate(divide="ignore"):
    logs = np.log(exact - least) - weights.log_weight(users, flat, gammas)
  # Where even float64 ends, logarithms go on.
  order = np.lexsort((flat, logs, fused, users)).reshape(items.shape)
  listed = Listed(flat[order].astype(np.int32), fused[order], exact[order])
  return listed, logs[order]


@functools.partial(
  jax.jit, static_argnames=("width", "count", "layout", "mesh")
)
def _lowest(
  block: distance.Block,
  items: distance.Items,
  gain: injection.Gain,
  least: jax.Array,
  cf_range: tuple[jax.Array, jax.Array] | None,
  gammas: injection.Gammas,
  *,
  width: int,
  count: int,
  layout: counting.ItemLayout,
  mesh: Mesh,
) -> tuple[jax.Array, jax.Array]:
  """Returns the `count` lowest bounds of log fused, and of which items."""

  def local(items, squared, gain, norms, least, cf_range, gammas):
    logs, size = injection.log_weight(gain, cf_range, gammas)
    error = distance.squared_error(
      width, norms[:, None], items.norms[None], jnp
    )
    distances = jnp.sqrt(squared)
    error = distance.root_error(distances, error, jnp)
    least = least[:, None] * jnp.float32(1 + 2 * distance.UNIT)
    above = jnp.log(jnp.maximum(distances - error - least, 0.0))
    size = size + 1.0 + jnp.abs(above)
    off = jnp.float32(_ROUNDINGS * distance.UNIT) * size
    # What may be the nearest has no bound: it comes first whatever gammas say.
    bound = jnp.where(above > -jnp.inf, above - logs - off, -jnp.inf)
    columns = ranking.columns_of(layout, mesh)
    bound = jnp.where((columns < layout.num_items)[None], bound, jnp.inf)
    values, places = top_k.stable_top_k(bound, min(count, layout.rows))
    return top_k.gather_top_k(values, columns[0] + places, count, mesh)

  whole = PartitionSpec()
  mapped = ranking.map_items(local, mesh, gain, (whole, whole))
  return mapped(
    items, block.squared, gain, block.norms, least, cf_range, gammas
  )
