import jax
import numpy as np
import pytest

from bigrec_jax.cf import (
  factors as factors_lib,
  networks,
  rows,
  states as cf_states,
)
from bigrec_jax.config import MeshConfig
from bigrec_jax.devices import sharding
from bigrec_jax.rankers import cf as cf_rankers, dense, engine
from tests.cf import worlds

USERS, ITEMS, WIDTH = 21, 53, 6
RNG = np.random.default_rng(0)
# Few distinct values: many scores tie, and ties go to the lower item.
STATES = RNG.integers(-1, 2, (USERS, WIDTH)).astype(np.float32)
KERNEL = RNG.integers(-1, 2, (ITEMS, WIDTH)).astype(np.float32)
TARGETS = RNG.integers(0, ITEMS, USERS).astype(np.int32)
SCORES = STATES @ KERNEL.T


def _naive(scores, seen=None):
  found = []
  for row, target in enumerate(TARGETS):
    line = scores[row].copy()
    if seen is not None:
      hidden = [i for i in seen[row] if i >= 0 and i != target]
      line[hidden] = -np.inf
    order = np.argsort(-line, kind="stable")
    found.append(int(np.flatnonzero(order == target)[0]))
  return np.array(found)


@pytest.mark.parametrize("masked", [False, True])
def test_ranks_equal_a_stable_sort(masked):
  mesh = sharding.make_mesh(MeshConfig(4, 2, 1))
  seen = RNG.integers(-1, ITEMS, (USERS, 9)).astype(np.int32)
  seen = np.where(seen == TARGETS[:, None], -1, seen)
  seen = seen if masked else None
  ranks_of = engine.Ranks(TARGETS, ITEMS, mesh, most_users=8, seen=seen)
  expected = _naive(SCORES, seen)
  factors = factors_lib.Factors(STATES, KERNEL)
  for ranker in (
    cf_rankers.Factorised(factors),
    dense.Dense(SCORES.__getitem__, ITEMS),
  ):
    np.testing.assert_array_equal(ranks_of(ranker), expected)


@pytest.mark.parametrize("network", ["sasrec", "caser"])
def test_states_do_not_depend_on_how_histories_are_grouped(
  monkeypatch, network
):
  spec = worlds.spec(network, "s3rec", num_items=ITEMS, rows=56, max_length=19)
  mesh = sharding.make_mesh(MeshConfig(2, 2, 2))
  monkeypatch.setattr(cf_states, "_BLOCK_POSITIONS", 160)
  rng = np.random.default_rng(1)
  lengths = rng.integers(0, 26, USERS)
  history = np.full((USERS, 25), -1, np.int32)
  for row, n in zip(history, lengths, strict=True):
    row[:n] = rng.integers(0, ITEMS, n)[:25]
  params = jax.tree.map(
    lambda x: rng.normal(scale=0.3, size=x.shape).astype(np.float32),
    networks.init(spec, 0),
  )
  found = cf_states.Encoder(spec, history, mesh, 8)(params)
  assert found.shape[0] == 24
  # At once and unpadded: the newest 19 items of each.
  newest = [row[: rows.lengths(row[None])[0]][-19:] for row in history]
  tokens = np.full((USERS, 19), ITEMS, np.int32)
  for row, items in zip(tokens, newest, strict=True):
    row[: len(items)] = items
  length = np.array([len(x) for x in newest], np.int32)
  last = jax.jit(networks.last_states, static_argnums=0)
  expected = last(spec, params, tokens, length, None)
  np.testing.assert_allclose(
    np.asarray(found)[:USERS], expected, rtol=1e-4, atol=1e-5
  )
