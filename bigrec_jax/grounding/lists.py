"""The items that a prediction is grounded to: each user's nearest few.

Candidates come from a top-k on the devices; their order is then decided
exactly, like a rank.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from bigrec_jax import counting
from bigrec_jax.grounding import distance, injection, user_block

# Candidates beyond k: float32 may misplace near-equal items at the border.
_SLACK = 32


def top_items(
  block: user_block.UserBlock,
  weights: injection.Injection,
  gamma: float,
  k: int,
) -> np.ndarray:
  """Returns each user's k first items by fused distance, [n, k] int32.

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
  return _in_order(block, weights, gamma, items)[:, :k]


def _in_order(
  block: user_block.UserBlock,
  weights: injection.Injection,
  gamma: float,
  items: np.ndarray,
) -> np.ndarray:
  """Sorts candidates [n, c] by exact fused distance, then by index."""
  users = np.repeat(np.arange(len(items)), items.shape[1])
  flat = items.ravel()
  exact = distance.exact_pairs(block.queries, block.table, users, flat)
  factor = weights.factor(users, flat)
  scores = injection.fused(factor, exact, block.least[users], np.float64(gamma))
  order = np.lexsort((flat, scores, users)).reshape(items.shape)
  return flat[order].astype(np.int32)


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
