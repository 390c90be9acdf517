"""The items that a prediction is grounded to: each user's nearest few.

Candidates come from a top-k on the devices; their order is then decided
exactly, like a rank.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from bigrec_jax import counting
from bigrec_jax.grounding import distance, injection, user_block

# Candidates beyond k: float32 may misplace near-equal items at the border.
_SLACK = 32


class Listed(NamedTuple):
  """Items of n users, best first.

  Attributes:
    items: [n, k] int32 catalogue rows; -1 = there are no more.
    fused: [n, k] float64, (1 + w)^-gamma * (d - min d).
    distances: [n, k] float64, d.
  """

  items: np.ndarray
  fused: np.ndarray
  distances: np.ndarray


def top_items(
  block: user_block.UserBlock,
  weights: injection.Injection,
  gamma: float,
  k: int,
) -> Listed:
  """Returns each user's k first items by fused distance.

  Equal fused distances are in catalogue order, as in a stable ascending sort.

  Args:
    block: users with their distances.
    weights: what to inject; neither part = plain distance.
    gamma: its strength.
    k: list length, at most the number of items.
  """
  table = block.table
  count = min(k + _SLACK, len(table.host))
  gain = weights.gain
  least = counting.pad_rows(block.least.astype(np.float32), block.rows)
  cf_range = None
  if weights.cf is not None:
    cf_range = tuple(
      counting.pad_rows(part.astype(np.float32), block.rows)
      for part in (weights.cf.low, weights.cf.span)
    )
  found = _candidates(
    block.device.squared,
    least,
    gain,
    cf_range,
    np.float32(gamma),
    count=count,
    layout=table.layout,
    mesh=table.mesh,
  )
  items = np.asarray(found)[: len(block)]  # [n, count]
  return Listed(*(x[:, :k] for x in _in_order(block, weights, gamma, items)))


def new_titles(
  block: user_block.UserBlock,
  weights: injection.Injection,
  gamma: float,
  k: int,
  hidden: np.ndarray,
) -> Listed:
  """Returns each user's k first items of different titles, none of them hidden.

  Args:
    block: users with their distances.
    weights: what to inject.
    gamma: its strength.
    k: list length.
    hidden: [n, H] catalogue rows, padded with -1; rows of the same title are
      hidden with them.
  """
  total = len(block.table.host)
  # A power of two, so that few lengths of histories mean few programs.
  count = k + (1 << max(0, hidden.shape[1] - 1).bit_length())
  while True:
    count = min(count, total)
    found = top_items(block, weights, gamma, count)
    kept = _new(found.items, block.table.groups, hidden)
    if count == total or (kept.sum(axis=1) >= k).all():
      break
    count *= 2  # Many rows share titles.
  order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
  items, fused, distances = (
    np.take_along_axis(x, order, axis=1) for x in found
  )
  kept = np.take_along_axis(kept, order, axis=1)
  return Listed(np.where(kept, items, -1).astype(np.int32), fused, distances)


def _new(
  items: np.ndarray, groups: np.ndarray, hidden: np.ndarray
) -> np.ndarray:
  """Returns which [n, c] items are the first of a title that isn't hidden."""
  kept = np.zeros(items.shape, bool)
  for row, own, without in zip(kept, items, hidden, strict=True):
    titles = groups[own]
    row[np.unique(titles, return_index=True)[1]] = True
    row &= ~np.isin(titles, groups[without[without >= 0]])
  return kept


def _in_order(
  block: user_block.UserBlock,
  weights: injection.Injection,
  gamma: float,
  items: np.ndarray,
) -> Listed:
  """Sorts candidates [n, c] by exact fused distance, then by index."""
  users = np.repeat(np.arange(len(items)), items.shape[1])
  flat = items.ravel()
  exact = distance.exact_pairs(block.queries, block.table, users, flat)
  factor = weights.factor(users, flat)
  scores = injection.fused(factor, exact, block.least[users], np.float64(gamma))
  order = np.lexsort((flat, scores, users)).reshape(items.shape)
  return Listed(flat[order].astype(np.int32), scores[order], exact[order])


@functools.partial(jax.jit, static_argnames=("count", "layout", "mesh"))
def _candidates(
  squared: jax.Array,
  least: jax.Array,
  gain: injection.Gain,
  cf_range: tuple[jax.Array, jax.Array] | None,
  gamma: jax.Array,
  *,
  count: int,
  layout: counting.ItemLayout,
  mesh: Mesh,
) -> jax.Array:
  """Returns the `count` items of lowest fused distance, [B, count]."""

  def local(squared, gain, least, cf_range, gamma):
    logs = jnp.zeros((1, 1), jnp.float32)
    if gain.popularity is not None:
      logs = logs + gain.popularity[0][None]
    if gain.cf is not None:
      low, span = cf_range
      # Padding rows of the block have no span.
      span = jnp.where(span > 0, span, jnp.float32(1))
      weight = (gain.cf - low[:, None]) / span[:, None]
      logs = logs + jnp.log1p(jnp.clip(weight, 0.0, 1.0))
    distances = jnp.sqrt(jnp.maximum(squared, 0.0))
    above = jnp.maximum(distances - least[:, None], 0.0)
    fused = above * jnp.exp(-gamma * logs)
    first = counting.shard_index(mesh) * layout.rows
    columns = first + jnp.arange(layout.rows, dtype=jnp.int32)
    fused = jnp.where((columns < layout.num_items)[None], fused, jnp.inf)
    scores, places = counting.stable_top_k(fused, min(count, layout.rows))
    _, items = counting.gather_top_k(scores, first + places, count, mesh)
    return items

  across = PartitionSpec(None, mesh.axis_names)
  whole = PartitionSpec()
  split = PartitionSpec(mesh.axis_names)
  specs = injection.Gain(
    None if gain.popularity is None else (split, split),
    None if gain.cf is None else across,
  )
  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(across, specs, whole, whole, whole),
    out_specs=whole,
    check_vma=False,  # all_gather's result is equal on every device.
  )(squared, gain, least, cf_range, gamma)
