"""HR, NDCG and MRR against ir-measures, which others evaluate with."""

import numpy as np
import pytest

from bigrec_jax.results import metrics

ir_measures = pytest.importorskip(
  "ir_measures", reason="ir-measures of the test extras is not installed"
)

ITEMS = 40


@pytest.fixture(scope="module")
def world():
  """Ranks of 50 users' targets, and the same as qrels and a run."""
  rng = np.random.default_rng(0)
  ranks = rng.integers(0, ITEMS, 50)
  qrels, run = {}, {}
  for user, rank in enumerate(ranks.tolist()):
    order = rng.permutation(ITEMS)
    qrels[str(user)] = {str(order[rank]): 1}
    run[str(user)] = {str(i): float(ITEMS - n) for n, i in enumerate(order)}
  return ranks, qrels, run


@pytest.mark.parametrize("k", [1, 3, 5, 10, 20])
def test_hit_rate_and_ndcg_are_theirs(world, k):
  ranks, qrels, run = world
  # One relevant item: success, recall and hit rate are one.
  wanted = [
    ir_measures.nDCG @ k,
    ir_measures.Success @ k,
    ir_measures.Recall @ k,
  ]
  found = ir_measures.calc_aggregate(wanted, qrels, run)
  assert metrics.ndcg(ranks, k) == pytest.approx(found[wanted[0]], abs=1e-9)
  for measure in wanted[1:]:
    assert metrics.hit_rate(ranks, k) == pytest.approx(found[measure])


def test_reciprocal_rank_is_theirs(world):
  ranks, qrels, run = world
  found = ir_measures.calc_aggregate([ir_measures.RR], qrels, run)
  want = found[ir_measures.RR]
  assert metrics.mean_reciprocal_rank(ranks) == pytest.approx(want, abs=1e-9)


def test_gains_of_users_are_theirs(world):
  """User by user, as the paired tests use them."""
  from bigrec_jax.results import significance

  ranks, qrels, run = world
  question = significance.Question("ndcg", 10)
  found = ir_measures.iter_calc([ir_measures.nDCG @ 10], qrels, run)
  want = {int(m.query_id): m.value for m in found}
  own = significance.gains(ranks, question)
  np.testing.assert_allclose(own, [want[n] for n in range(50)], atol=1e-9)
