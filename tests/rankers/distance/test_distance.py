"""Distances: the float32 bound holds, the exact ones are exact."""

import jax
import numpy as np
import pytest

from bigrec_jax.rankers.distance import distance, user_block


def _mesh(*sizes):
  return jax.make_mesh(
    sizes,
    ("data", "fsdp", "tensor"),
    axis_types=(jax.sharding.AxisType.Auto,) * 3,
    devices=jax.devices()[: np.prod(sizes)],
  )


def _table(items, mesh):
  return distance.item_table(items, np.arange(len(items)), mesh)


def _block(queries, table, near=32):
  return distance.block(
    queries,
    table.mean,
    table.items,
    near=min(near, len(table.host)),
    layout=table.layout,
    mesh=table.mesh,
  )


def _vectors(count, width, norm, rng):
  """Structured as hidden states are: a common part, a few huge widths."""
  vectors = rng.standard_normal((count, width))
  vectors[:, :3] *= 30.0
  vectors += rng.standard_normal(width) * 2.0
  length = np.linalg.norm(vectors, axis=1, keepdims=True)
  return (vectors / length * norm).astype(np.float32)


@pytest.mark.parametrize("norm", [1.0, 14.0, 200.0])
@pytest.mark.parametrize("width", [37, 257])
def test_squared_distances_are_within_half_of_their_bound(norm, width):
  rng = np.random.default_rng(0)
  items = _vectors(307, width, norm, rng)
  queries = np.concatenate(
    [
      _vectors(20, width, norm, rng),
      items[:20],  # Exact titles.
      items[20:40] * np.float32(1 + 1e-6),
      _vectors(20, width, norm * 3, rng),
    ]
  )
  table = _table(items, _mesh(1, 1, 1))
  block, _ = _block(queries, table)
  truth = ((queries[:, None].astype(np.float64) - items[None]) ** 2).sum(axis=2)
  found = np.asarray(block.squared)[:, : len(items)]
  bound = distance.squared_error(
    width, np.asarray(block.norms)[:, None], table.norms[None], np
  )
  assert (np.abs(found - truth) <= bound / 2).all()
  roots, error = np.sqrt(found), distance.root_error(np.sqrt(found), bound, np)
  assert (np.abs(roots - np.sqrt(truth)) <= error).all()


def test_exact_distances_of_equal_pairs_are_equal_and_zero_to_itself():
  rng = np.random.default_rng(1)
  items = _vectors(300, 53, 200.0, rng)
  items[250] = items[3]
  queries = np.concatenate([items[[3]], _vectors(4, 53, 200.0, rng)])
  table = _table(items, _mesh(1, 1, 1))
  for user in range(5):
    row = distance.exact_row(queries[user], table)
    assert row[250] == row[3]
    want = np.sqrt(
      ((queries[user].astype(np.float64) - items) ** 2).sum(axis=1)
    )
    np.testing.assert_array_equal(row, want)
  assert distance.exact_row(queries[0], table)[3] == 0.0


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_nearest_is_the_exact_minimum_and_its_first_row(sizes):
  rng = np.random.default_rng(2)
  items = _vectors(211, 37, 200.0, rng)
  items[100:150] = items[100]  # More rows than the list of nearest is long.
  items[7] = items[200]
  queries = np.concatenate(
    [items[[149, 200]], _vectors(9, 37, 200.0, rng), items[[3]] + 1e-4]
  ).astype(np.float32)
  table = _table(items, _mesh(*sizes))
  block, near = _block(queries, table)
  near = distance.Near(*(np.asarray(part) for part in near))
  least, rows = distance.nearest(near, np.asarray(block.norms), queries, table)
  truth = np.stack([distance.exact_row(query, table) for query in queries])
  np.testing.assert_array_equal(least, truth.min(axis=1))
  np.testing.assert_array_equal(rows, truth.argmin(axis=1))
  assert rows[0] == 100 and rows[1] == 7
  assert (near.farthest <= truth.max(axis=1) ** 2).all()
  assert (near.farthest >= truth.max(axis=1) ** 2 * 0.999).all()


def test_a_crowd_round_the_query_is_searched_in_full():
  rng = np.random.default_rng(3)
  items = np.full((101, 11), 50.0, np.float32)
  # A hundred distinct vectors, closer to one another than float32 can say.
  items[:100] += rng.standard_normal((100, 11)).astype(np.float32) * 2e-5
  items[100] = -50.0
  queries = np.full((3, 11), 50.0, np.float32)
  table = _table(items, _mesh(1, 1, 1))
  block, near = _block(queries, table)
  near = distance.Near(*(np.asarray(part) for part in near))
  least, rows = distance.nearest(near, np.asarray(block.norms), queries, table)
  truth = distance.exact_row(queries[0], table)
  assert table.num_distinct > 32
  assert (least == truth.min()).all() and (rows == truth.argmin()).all()


def test_twins_are_bitwise_equal_rows():
  rng = np.random.default_rng(4)
  vectors = rng.standard_normal((50, 7)).astype(np.float32)
  vectors[[9, 31]] = vectors[4]
  vectors[40] = vectors[4][::-1]  # Same sum of words, other vector.
  vectors[41], vectors[42] = 0.0, -0.0  # Equal numbers, not equal bits.
  want = np.arange(50)
  want[[9, 31]] = 4
  np.testing.assert_array_equal(distance.find_twins(vectors), want)


def test_members_of_groups():
  groups = np.array([0, 1, 0, 3, 1, 0], np.int32)
  rows = user_block.members(groups).rows(np.array([0, 1, 3]))
  np.testing.assert_array_equal(rows, [[0, 2, 5], [1, 4, -1], [3, -1, -1]])


def test_padding_is_never_near_or_far():
  # The mean of these is far from 0, where padding rows lie before centring.
  items = np.full((9, 5), 100.0, np.float32)
  items[:, 0] += np.arange(9)
  table = _table(items, _mesh(8, 1, 1))
  assert table.layout.padded > 9
  block, near = _block(items[:2], table)
  assert np.asarray(near.items).max() < 9
  np.testing.assert_allclose(near.farthest, [64.0, 49.0], rtol=1e-3)
  one = block.squared.addressable_shards[0].data
  assert one.shape == (2, table.layout.padded // 8)
