"""Counting and streaming top-k against numpy's stable sort."""

import jax
import numpy as np
import pytest

from bigrec_jax.devices import blocks
from bigrec_jax.rankers import counting, top_k

AXES = ("data", "fsdp", "tensor")


def _mesh(*sizes):
  return jax.make_mesh(
    sizes, AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3
  )


def _lookup(queries, items):
  """Scores that the test lays down itself: items hold their own columns."""
  return items.T + queries[:, None]


def _world(num_users, num_items, seed):
  rng = np.random.default_rng(seed)
  # Integers, so that ties are everywhere.
  table = rng.integers(0, 7, size=(num_users, num_items)).astype(np.float32)
  targets = rng.integers(0, num_items, size=num_users).astype(np.int32)
  return table, targets


def _oracle(table, targets, descending, seen=None):
  result = []
  for user, (row, target) in enumerate(zip(table, targets, strict=True)):
    keys = -row.astype(np.float64) if descending else row.astype(np.float64)
    keep = np.ones(len(row), bool)
    if seen is not None:
      keep[[s for s in seen[user] if s >= 0]] = False
    keep[target] = True
    order = [i for i in np.argsort(keys, kind="stable") if keep[i]]
    result.append(order.index(target))
  return np.array(result)


@pytest.mark.parametrize(
  ("sizes", "descending"),
  [((1, 1, 1), False), ((8, 1, 1), True), ((2, 2, 2), False)],
)
def test_ranks_equal_a_stable_sort(sizes, descending):
  mesh = _mesh(*sizes)
  table, targets = _world(11, 53, seed=1)
  seen = np.array([[3, 5, -1]] * 11, np.int32)
  layout = counting.item_layout(53, mesh, 5)
  items = counting.put_items(table.T.copy(), layout, mesh)
  assert layout.padded % mesh.size == 0 and layout.block <= 5
  zeros = np.zeros(11, np.float32)
  for hidden in (None, seen):
    got = counting.ranks(
      _lookup,
      zeros,
      items,
      targets,
      layout=layout,
      mesh=mesh,
      descending=descending,
      seen=hidden,
    )
    want = _oracle(table, targets, descending, hidden)
    np.testing.assert_array_equal(got, want)


def test_best_of_duplicates_counts_from_the_first_row_of_the_group():
  mesh = _mesh(8, 1, 1)
  table, _ = _world(11, 53, seed=2)
  groups = np.arange(53, dtype=np.int32)
  groups[[9, 17, 40]] = 9
  groups[[0, 52]] = 0
  targets = np.array([9, 0] * 5 + [4], np.int32)
  layout = counting.item_layout(53, mesh, 100)
  got = counting.ranks(
    _lookup,
    np.zeros(11, np.float32),
    counting.put_items(table.T.copy(), layout, mesh),
    targets,
    layout=layout,
    mesh=mesh,
    descending=False,
    groups=counting.put_items(groups, layout, mesh),
  )
  place = np.argsort(np.argsort(table, axis=1, kind="stable"), axis=1)
  want = [place[u][groups == t].min() for u, t in enumerate(targets)]
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
  ("sizes", "descending"), [((8, 1, 1), False), ((2, 2, 2), True)]
)
def test_top_k_equals_a_stable_sort(sizes, descending):
  mesh = _mesh(*sizes)
  table, _ = _world(5, 1009, seed=3)
  seen = np.full((5, 4), -1, np.int32)
  seen[:, 0] = np.argmax(table, axis=1)
  seen[:, 1] = np.argmin(table, axis=1)
  layout = counting.item_layout(1009, mesh, 64)
  assert layout.blocks > 1
  items = counting.put_items(table.T.copy(), layout, mesh)
  for hidden in (None, seen):
    values, indices = top_k.top_k(
      _lookup,
      np.zeros(5, np.float32),
      items,
      10,
      layout=layout,
      mesh=mesh,
      descending=descending,
      seen=hidden,
    )
    for user in range(5):
      keys = -table[user] if descending else table[user]
      order = np.argsort(keys, kind="stable")
      if hidden is not None:
        order = [i for i in order if i not in seen[user]]
      np.testing.assert_array_equal(indices[user], order[:10])
      np.testing.assert_array_equal(values[user], table[user][order[:10]])


def test_top_k_says_when_fewer_items_remain():
  mesh = _mesh(8, 1, 1)
  layout = counting.item_layout(3, mesh, 4)
  items = counting.put_items(
    np.array([[2.0], [1.0], [3.0]], np.float32), layout, mesh
  )
  values, indices = top_k.top_k(
    _lookup,
    np.zeros(1, np.float32),
    items,
    3,
    layout=layout,
    mesh=mesh,
    descending=False,
    seen=np.array([[1]], np.int32),
  )
  np.testing.assert_array_equal(indices, [[0, 2, -1]])
  np.testing.assert_array_equal(values, [[2.0, 3.0, np.nan]])


def test_grouped_search_is_exact_under_ties():
  rng = np.random.default_rng(4)
  scores = rng.integers(0, 40, size=(7, 32 * 97)).astype(np.float32)
  values, positions = top_k.stable_top_k(scores, 13)
  want = np.argsort(scores, axis=1, kind="stable")[:, :13]
  np.testing.assert_array_equal(positions, want)
  np.testing.assert_array_equal(
    values, np.take_along_axis(scores, want, axis=1)
  )


def test_one_compilation_serves_every_block():
  mesh = _mesh(8, 1, 1)
  table, targets = _world(11, 53, seed=5)
  layout = counting.item_layout(53, mesh, 16)
  items = counting.put_items(table.T.copy(), layout, mesh)
  calls = []

  def score(queries, items):
    calls.append(1)  # Runs only while tracing.
    return items.T[:4] + queries[:, None]

  for block in blocks.user_blocks(11, 4):
    counting.ranks(
      score,
      blocks.pad_rows(np.zeros(11, np.float32)[block], 4),
      items,
      blocks.pad_rows(targets[block], 4),
      layout=layout,
      mesh=mesh,
      descending=False,
    )
  assert len(calls) == 1
