"""Ranks and lists of every ranker against numpy's stable sort."""

import jax
import numpy as np
import pytest

from bigrec_jax.cf import networks
from bigrec_jax.cf.factors import Factors
from bigrec_jax.config import MeshConfig
from bigrec_jax.devices import sharding
from bigrec_jax.rankers import baselines, cf, counting, dense, engine
from tests.rankers import published

USERS, ITEMS, WIDTH = 23, 61, 4
RNG = np.random.default_rng(0)
# Few distinct values, so that ties are everywhere.
STATES = RNG.integers(-1, 2, (USERS, WIDTH)).astype(np.float32)
KERNEL = RNG.integers(-1, 2, (ITEMS, WIDTH)).astype(np.float32)
BIAS = RNG.integers(0, 2, ITEMS).astype(np.float32)
SCORES = STATES @ KERNEL.T + BIAS
TARGETS = RNG.integers(0, ITEMS, USERS).astype(np.int32)
TITLES = [f"t{i % 50}" for i in range(ITEMS)]
COUNTS = RNG.integers(0, 9, ITEMS)


def _small_blocks(monkeypatch, scores):
  monkeypatch.setattr(engine, "_BLOCK_SCORES", {"cpu": scores})
  monkeypatch.setattr(engine, "_ENOUGH", 4)


def _rankers():
  states = np.pad(STATES, [(0, 9), (0, 0)])  # Whole blocks of 8 or 16.
  head = networks.Head(
    jax.numpy.asarray(np.pad(KERNEL, [(0, 3), (0, 0)])),
    jax.numpy.asarray(np.pad(BIAS, [(0, 3)])),
  )
  biased = Factors(
    np.column_stack([STATES, np.ones(USERS, np.float32)]),
    np.column_stack([KERNEL, BIAS]),
  )
  shared = np.broadcast_to(COUNTS, SCORES.shape)
  return {
    "head": (cf.Headed(jax.numpy.asarray(states), head), SCORES),
    "factors": (cf.Factorised(biased), SCORES),
    "rows": (dense.Dense(SCORES.__getitem__, ITEMS), SCORES),
    # Beyond what float32 counts.
    "popularity": (baselines.MostPopular(COUNTS + 2.0**24), shared),
  }


@pytest.mark.parametrize("scores", [1 << 21, 24])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_ranks_and_lists_equal_a_stable_sort(monkeypatch, scores, sizes):
  """One block of items, and many; with and without what was seen."""
  _small_blocks(monkeypatch, scores)
  devices = jax.devices()[: np.prod(sizes)]
  mesh = sharding.make_mesh(MeshConfig(*sizes), devices)
  blocks = engine.block_sizes(ITEMS, mesh, 16)
  streams = counting.item_layout(ITEMS, mesh, blocks[1]).blocks > 1
  assert streams == (scores < 1 << 21)
  groups = published.groups(TITLES)
  seen = RNG.integers(-1, ITEMS, (USERS, 9)).astype(np.int32)
  seen[groups[seen] == groups[TARGETS][:, None]] = -1
  plain = engine.Ranks(
    TARGETS, ITEMS, mesh, most_users=16, groups=groups, seen=None
  )
  masked = engine.Ranks(TARGETS, ITEMS, mesh, most_users=16, seen=seen)
  for name, (ranker, scores) in _rankers().items():
    want = published.ranks(-scores, TITLES, TARGETS, "best")
    np.testing.assert_array_equal(plain(ranker), want, name)
    left = np.where(_rows_of(seen), -np.inf, scores)
    alone = [f"t{i}" for i in range(ITEMS)]
    want = published.ranks(-left, alone, TARGETS, "best")
    np.testing.assert_array_equal(masked(ranker), want, name)
    _, found = engine.lists(
      ranker, USERS, ITEMS, mesh, k=40, most_users=16, hidden=seen
    )
    order = np.argsort(-left, axis=1, kind="stable")[:, :40]
    np.testing.assert_array_equal(found, order, name)


def _rows_of(seen):
  hidden = np.zeros((USERS, ITEMS + 1), bool)
  np.put_along_axis(hidden, seen, True, axis=1)
  return hidden[:, :-1]


def test_many_items_meet_many_users_a_block_at_a_time():
  mesh = sharding.single_device_mesh()
  assert engine.block_sizes(1000, mesh, 512) == (512, 1000)
  assert engine.block_sizes(30_000, mesh, 512) == (69, 30_000)
  assert engine.block_sizes(10_000_000, mesh, 512) == (512, 4096)
  assert engine.block_sizes(10_000_000, mesh, 1) == (1, 1 << 21)


def test_whole_rows_of_many_items_are_few_users(monkeypatch):
  """Whoever holds a row of scores for each user holds few users."""
  monkeypatch.setattr(engine, "_MOST_QUERIES", 3 * ITEMS + 1)
  asked = []

  def read(part):
    asked.append(part)
    return SCORES[part]

  ranks_of = engine.Ranks(
    TARGETS, ITEMS, sharding.single_device_mesh(), most_users=16
  )
  found = ranks_of(dense.Dense(read, ITEMS))
  assert {part.stop - part.start for part in asked} == {3}
  np.testing.assert_array_equal(
    found, ranks_of(dense.Dense(SCORES.__getitem__, ITEMS))
  )


@pytest.mark.parametrize("scores", [1 << 21, 3000])
def test_random_ranks_are_uniform_and_the_best_of_duplicates(
  monkeypatch, scores
):
  _small_blocks(monkeypatch, scores)
  targets = np.array([0, 5] * 20000)
  groups = np.arange(10, dtype=np.int32)
  groups[[0, 1, 2]] = 0
  ranks_of = engine.Ranks(
    targets, 10, sharding.single_device_mesh(), most_users=1000, groups=groups
  )
  ranks = ranks_of(baselines.Random(10, 0))
  single = np.bincount(ranks[1::2], minlength=10) / 20000
  np.testing.assert_allclose(single, 0.1, atol=0.01)
  # The least of three of ten places without repetition: 9 over 4 on average.
  assert abs(ranks[::2].mean() - 7 / 4) < 0.03
  other = ranks_of(baselines.Random(10, 1))
  # Another seed is another order: ranks agree as often as chance has it.
  assert abs((other[1::2] == ranks[1::2]).mean() - 0.1) < 0.01
