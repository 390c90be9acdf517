"""Sums of rankers' scores against plain loops."""

import itertools

import jax
import numpy as np
import pytest

from bigrec_jax.cf.factors import Factors
from bigrec_jax.config import MeshConfig
from bigrec_jax.devices import sharding
from bigrec_jax.rankers import cf, dense, engine
from bigrec_jax.rankers.combine import weighted_sum
from bigrec_jax.results import metrics

USERS, ITEMS = 23, 41


def _mesh(devices):
  return sharding.make_mesh(MeshConfig(devices, 1, 1), jax.devices()[:devices])


def _parts(seed):
  """Returns rows [USERS, ITEMS] and rankers: dense scores, and factors."""
  rng = np.random.default_rng(seed)
  rows = rng.normal(size=(USERS, ITEMS)).astype(np.float32)
  rows[3] = 2.0  # Says nothing of its user.
  states = rng.normal(size=(USERS, 5)).astype(np.float32)
  items = rng.normal(size=(ITEMS, 5)).astype(np.float32)
  rankers = [
    dense.Dense(rows.__getitem__, ITEMS),
    cf.Factorised(Factors(states, items)),
  ]
  return [rows, states @ items.T], rankers


def _scaled(row):
  span = row.max() - row.min()
  return (row - row.min()) / span if span else np.zeros_like(row)


def _slow_ranks(all_rows, weights, targets, groups):
  ranks = []
  for user, target in enumerate(targets):
    total = sum(
      np.float32(w) * _scaled(rows[user])
      for w, rows in zip(weights, all_rows, strict=True)
    )
    order = sorted(range(ITEMS), key=lambda item: (-total[item], item))
    own = [order.index(i) for i in range(ITEMS) if groups[i] == groups[target]]
    ranks.append(min(own))
  return np.array(ranks)


@pytest.mark.parametrize("devices", [1, 4])
def test_weights_are_the_best_of_all_tenths_and_ranks_those_of_the_sum(devices):
  rows, rankers = _parts(1)
  rng = np.random.default_rng(2)
  targets = rng.integers(0, ITEMS, USERS).astype(np.int32)
  groups = np.arange(ITEMS, dtype=np.int32)
  groups[7] = 4
  make = dict(most_users=8, groups=groups)
  fitted = weighted_sum.WeightedSum(_mesh(devices), **make).fit(
    rankers, targets
  )
  ndcg = {
    (w / 10, (10 - w) / 10): metrics.ndcg(
      _slow_ranks(rows, (w / 10, (10 - w) / 10), targets, groups), 20
    )
    for w in range(11)
  }
  assert fitted.tried == 11
  assert fitted.weights == max(ndcg, key=ndcg.get)
  assert ndcg[fitted.weights] >= max(ndcg[1.0, 0.0], ndcg[0.0, 1.0])
  ranks_of = engine.Ranks(targets, ITEMS, _mesh(devices), **make)
  expected = _slow_ranks(rows, fitted.weights, targets, groups)
  np.testing.assert_array_equal(ranks_of(fitted(rankers)), expected)


def test_three_parts_have_all_settings_that_add_up():
  found = weighted_sum._tenths(3)
  assert len(found) == len(set(found)) == 66
  assert all(np.isclose(sum(one), 1.0) for one in found)
  assert set(itertools.permutations((1.0, 0.0, 0.0))) <= set(found)


def test_other_parts_than_it_was_fitted_to_are_refused():
  fitted = weighted_sum.WeightedSum(
    _mesh(1), most_users=8, groups=np.arange(ITEMS), weights=(0.5, 0.5)
  )
  with pytest.raises(ValueError, match="1 parts, 2 expected"):
    fitted(_parts(0)[1][:1])
