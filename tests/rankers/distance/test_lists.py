import numpy as np
import pytest

from bigrec_jax import config
from bigrec_jax.devices import sharding
from bigrec_jax.rankers.combine import injection
from bigrec_jax.rankers.distance import distance, lists, user_block


def fused_scores(queries, items, factor, gamma):
  """The formula in float64, written out."""
  d = np.sqrt(((queries[:, None].astype(float) - items[None]) ** 2).sum(-1))
  return factor**-gamma * (d - d.min(axis=1, keepdims=True))


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize("parts", ["none", "popularity", "cf", "both"])
def test_lists_are_the_stable_sort_of_fused_distances(shape, parts):
  rng = np.random.default_rng(0)
  items = rng.normal(size=(101, 7)).astype(np.float32)
  items[50] = items[3]  # Exact duplicates tie; the lower index comes first.
  queries = rng.normal(size=(5, 7)).astype(np.float32)
  queries[2] = items[3]
  counts = rng.integers(0, 50, size=101)
  cf = rng.normal(size=(5, 101)).astype(np.float32)
  mesh = sharding.make_mesh(config.MeshConfig(*shape))
  groups = np.arange(101, dtype=np.int32)
  table = distance.item_table(items, groups, mesh)
  block = user_block.open_block(
    table, user_block.members(groups), queries, groups[:5], 6, 0, "test"
  )
  factor = np.ones((5, 101))
  popularity = scores = None
  if parts in ("popularity", "both"):
    popularity = injection.Popularity(counts, table)
    factor = factor * (1 + (counts - counts.min()) / np.ptp(counts))
  if parts in ("cf", "both"):
    scores = injection.cf_block(cf, 0, "cf", 6, table)
    low = cf.min(axis=1, keepdims=True).astype(float)
    factor = factor * (1 + (cf - low) / np.ptp(cf.astype(float), 1)[:, None])
  weights = injection.Injection(popularity, scores)
  gammas = injection.Gammas.of(1.5)
  found = lists.top_items(block, weights, gammas, 20).items
  expected = np.argsort(
    fused_scores(queries, items, factor, 1.5), axis=1, kind="stable"
  )
  np.testing.assert_array_equal(found, expected[:, :20])
