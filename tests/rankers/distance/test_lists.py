"""Streamed lists against the formula and a stable sort, in float64."""

import jax
import numpy as np
import pytest

from bigrec_jax import config, errors
from bigrec_jax.devices import sharding
from bigrec_jax.rankers.combine import injection
from bigrec_jax.rankers.distance import distance, lists, lowest, streamed


def _mesh(sizes):
  return sharding.make_mesh(
    config.MeshConfig(*sizes), jax.devices()[: np.prod(sizes)]
  )


def _blocks_of(monkeypatch, items, minima):
  """Makes blocks of few items, of which few are searched together."""
  cut = lowest.Blocks.of.__func__

  def of(cls, rows, users, most_items, mesh):
    del most_items
    return cut(cls, rows, users, items, mesh)

  monkeypatch.setattr(lowest.Blocks, "of", classmethod(of))
  monkeypatch.setattr(lowest, "_MINIMA", minima)


def _injected(parts, counts, cf, rows, table):
  """Returns the weights, and 1 + w in float64."""
  factor = np.ones((len(cf), len(counts)))
  popularity = scores = None
  if parts in ("popularity", "both"):
    popularity = injection.Popularity(counts, table)
    factor = factor * (1 + (counts - counts.min()) / np.ptp(counts))
  if parts in ("cf", "both"):
    scores = injection.cf_block(cf, 0, "cf", rows, table)
    low = cf.min(axis=1, keepdims=True).astype(float)
    span = np.ptp(cf.astype(float), axis=1)[:, None]
    factor = factor * (1 + (cf - low) / span)
  return injection.Injection(popularity, scores), factor


def _sorted(queries, items, factor, gamma):
  """Returns each user's items in the order of the formula, in float64."""
  d = np.sqrt(((queries[:, None].astype(float) - items[None]) ** 2).sum(-1))
  above = d - d.min(axis=1, keepdims=True)
  with np.errstate(divide="ignore"):
    logs = np.log(above) - gamma * np.log(factor)
  fused = factor**-gamma * above
  columns = np.broadcast_to(np.arange(len(items)), d.shape)
  return np.lexsort((columns, logs, fused), axis=1)


def _world(seed, count):
  """Vectors on a grid, so that ties and duplicates are everywhere."""
  rng = np.random.default_rng(seed)
  width = int(rng.integers(1, 6))
  items = rng.integers(-2, 3, size=(count, width)).astype(np.float32)
  noisy = rng.random(count) < 0.5
  items[noisy] += rng.normal(size=(noisy.sum(), width)).astype(np.float32)
  items += np.float32(rng.choice([0.0, 30.0]))  # Far from the origin.
  queries = rng.normal(size=(5, width)).astype(np.float32) + items.mean(axis=0)
  queries[2] = items[count // 2]
  cf = rng.normal(size=(5, count)).astype(np.float32)
  return items, queries, rng.zipf(1.6, size=count).clip(max=60), cf


@pytest.mark.parametrize(
  ("sizes", "parts"),
  [
    ((2, 2, 2), "none"),
    ((1, 1, 1), "popularity"),
    ((1, 1, 1), "cf"),
    ((2, 2, 2), "both"),
  ],
)
def test_lists_are_the_stable_sort_of_fused_distances(
  monkeypatch, sizes, parts
):
  """Of random catalogues, blocks, lengths and gammas, in few shapes."""
  mesh, rng = _mesh(sizes), np.random.default_rng(0)
  for trial, (count, block, k) in enumerate(
    # Many blocks, the last of them overlapping; k larger than a block; whole
    # groups.
    [(101, 7, 20), (97, 3, 97), (4001, 256, 9)]
  ):
    _blocks_of(monkeypatch, block, 2 * block)
    for seed in range(4):
      items, queries, counts, cf = _world(10 * trial + seed, count)
      table = streamed.streamed(items, np.arange(count), mesh)
      weights, factor = _injected(parts, counts, cf, 6, table)
      gamma = float(rng.choice([0.0, 0.3, 1.5, 40.0, 400.0]))
      users = lists.Users(
        queries, 6, weights, injection.Gammas.of(gamma), 0, "test"
      )
      found = lists.top_items(table, users, k, block)
      expected = _sorted(queries, items, factor, gamma)[:, :k]
      message = f"{count} {block} {seed} {gamma}"
      np.testing.assert_array_equal(found.items, expected, message)
    monkeypatch.undo()


def test_more_equal_vectors_than_candidates_are_in_order():
  """Bounds can't part them: the whole catalogue is looked at."""
  rng = np.random.default_rng(1)
  items = rng.normal(size=(3000, 4)).astype(np.float32)
  items[500:2500] = items[0]
  table = streamed.streamed(items, np.arange(3000), _mesh((1, 1, 1)))
  queries = np.stack([items[0], items[2700]])
  counts = rng.integers(0, 9, 3000)
  for parts in ("none", "popularity"):
    cf = np.zeros((2, 3000), np.float32)
    weights, factor = _injected(parts, counts, cf, 2, table)
    users = lists.Users(
      queries, 2, weights, injection.Gammas.of(0.5), 0, "test"
    )
    found = lists.top_items(table, users, 30, 256)
    expected = _sorted(queries, items, factor, 0.5)[:, :30]
    np.testing.assert_array_equal(found.items, expected, parts)


def test_what_is_not_finite_is_named():
  items = np.ones((300, 3), np.float32)
  items[:, 0] = np.arange(300)
  mesh = _mesh((1, 1, 1))
  table = streamed.streamed(items, np.arange(300), mesh)
  queries = np.ones((4, 3), np.float32)
  queries[2, 1] = np.nan
  users = lists.Users(
    queries,
    4,
    injection.Injection(None, None),
    injection.Gammas.of(0.0),
    40,
    "recommend",
  )
  with pytest.raises(errors.UserError, match="recommend queries: row 42 is"):
    lists.top_items(table, users, 3, 100)
  items[7, 1] = np.inf
  with pytest.raises(errors.UserError, match="item embeddings: row 7"):
    streamed.streamed(items, np.arange(300), mesh)


def _compiled(items, users, mesh, count=66):
  """Returns what a pass takes beside its arguments, and its program's text."""
  rows = -(-items // mesh.size)
  layout = lowest.counting.ItemLayout(items, mesh.size, rows, 1)

  def array(*shape):
    return jax.ShapeDtypeStruct(shape, np.float32)

  vectors = streamed.Vectors(
    array(rows * mesh.size, 16), array(16), array(rows * mesh.size)
  )
  program = lowest.lowest.lower(
    array(users, 16),
    vectors,
    None,
    count=count,
    blocks=lowest.Blocks.of(rows, users, 1 << 20, mesh),
    layout=layout,
    mesh=mesh,
  ).compile()
  return program.memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_the_catalogue():
  mesh = _mesh((1, 1, 1))
  small, large = (_compiled(n, 64, mesh) for n in (1 << 18, 1 << 22))
  assert large < 1.05 * small
  # A block of scores is 2 MiB; a row of scores for each user would be 1 GiB.
  assert large < 40 << 20


def test_memory_of_a_catalogue_is_its_vectors_once():
  """A CPU device takes the host's own; centring needs a block only."""
  mesh = _mesh((1, 1, 1))
  layout = lowest.counting.ItemLayout(1 << 20, 1, 1 << 20, 1)
  given = jax.ShapeDtypeStruct((1 << 20, 64), np.float32)
  program = streamed._measure.lower(given, layout, mesh).compile()
  assert program.memory_analysis().temp_size_in_bytes < 40 << 20


def test_a_second_block_of_users_compiles_nothing():
  items, queries, counts, cf = _world(3, 500)
  table = streamed.streamed(items, np.arange(500), _mesh((2, 2, 2)))
  weights, _ = _injected("both", counts, cf, 5, table)

  def run(gamma):
    users = lists.Users(
      queries, 5, weights, injection.Gammas.of(gamma), 0, "test"
    )
    lists.top_items(table, users, 4, 100)

  run(0.5)
  before = lowest.lowest._cache_size()
  run(0.7)
  assert lowest.lowest._cache_size() == before


def test_vectors_far_from_the_origin_keep_their_order():
  """Centring block by block is what keeps float32 bounds narrow."""
  rng = np.random.default_rng(2)
  items = rng.normal(size=(900, 8)).astype(np.float32) + np.float32(500)
  queries = rng.normal(size=(3, 8)).astype(np.float32) + np.float32(500)
  table = streamed.streamed(items, np.arange(900), _mesh((1, 1, 1)))
  plain = distance.item_table(items, np.arange(900), _mesh((1, 1, 1)))
  np.testing.assert_allclose(table.vectors.norms, plain.norms, rtol=1e-3)
  users = lists.Users(
    queries,
    3,
    injection.Injection(None, None),
    injection.Gammas.of(0.0),
    0,
    "test",
  )
  found = lists.top_items(table, users, 10, 256)
  expected = _sorted(queries, items, np.ones((3, 900)), 0.0)
  np.testing.assert_array_equal(found.items, expected[:, :10])
