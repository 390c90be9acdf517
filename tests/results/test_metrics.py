"""Metrics against tables worked out by hand."""

import math

import numpy as np
import pytest

from bigrec_jax.results import metrics

# Five users; log2 of 2, 3, 4, 6 by hand.
RANKS = np.array([0, 1, 2, 4, 60])
TABLE = {
  1: (1 / 5, 1 / 5),
  3: (3 / 5, (1 + 1 / math.log2(3) + 1 / 2) / 5),
  5: (4 / 5, (1 + 1 / math.log2(3) + 1 / 2 + 1 / math.log2(6)) / 5),
  50: (4 / 5, (1 + 1 / math.log2(3) + 1 / 2 + 1 / math.log2(6)) / 5),
}


@pytest.mark.parametrize("k", TABLE)
def test_hand_made_table(k):
  hr, ndcg = TABLE[k]
  assert metrics.hit_rate(RANKS, k) == pytest.approx(hr, abs=1e-12)
  assert metrics.ndcg(RANKS, k) == pytest.approx(ndcg, abs=1e-12)


def test_reciprocal_rank():
  want = (1 + 1 / 2 + 1 / 3 + 1 / 5 + 1 / 61) / 5
  assert metrics.mean_reciprocal_rank(RANKS) == pytest.approx(want, abs=1e-12)


def test_no_hit_is_zero():
  assert metrics.summarise(np.array([7, 8]), [1, 5]) == {
    "ndcg": {"1": 0.0, "5": 0.0},
    "hr": {"1": 0.0, "5": 0.0},
  }


def test_ndcg_is_bitwise_the_published_loop():
  rng = np.random.default_rng(0)
  ranks = rng.integers(0, 80, size=997)
  total = 0.0
  for rank in ranks.tolist():
    if rank < 20:
      total += 1 / math.log(rank + 2)
  assert metrics.ndcg(ranks, 20) == total / len(ranks) / (1.0 / math.log(2))


def test_published_hit_counts_come_back():
  # SPECS 1.5: 264 of 15,000 rows at K=1 print as .0176.
  ranks = np.full(15000, 99)
  ranks[:264] = 0
  assert round(metrics.hit_rate(ranks, 1), 4) == 0.0176


@pytest.mark.parametrize("metric", ["ndcg", "hr"])
def test_interval_agrees_with_resampling_users(metric):
  rng = np.random.default_rng(1)
  ranks = rng.geometric(0.02, size=400) - 1
  low, high = metrics.ci95(ranks, metric, 10, samples=4000, seed=2)
  function = metrics.METRICS[metric]
  values = [
    function(ranks[rng.integers(0, 400, size=400)], 10) for _ in range(4000)
  ]
  want = np.percentile(values, [2.5, 97.5])
  # A percentile of 4,000 samples is itself known to a few per cent of the
  # spread only.
  spread = want[1] - want[0]
  assert abs(low - want[0]) < 0.05 * spread
  assert abs(high - want[1]) < 0.05 * spread
  assert low < function(ranks, 10) < high


@pytest.mark.parametrize("metric", ["ndcg", "hr"])
def test_a_cutoff_beyond_all_ranks_is_that_of_all_ranks(metric, monkeypatch):
  """Of 2^31 - 1 it took 16 GB; the draws stay what they were."""
  rng = np.random.default_rng(2)
  ranks = rng.integers(0, 40, size=300)
  most = 2**31 - 1
  assert metrics.METRICS[metric](ranks, most) == (
    metrics.METRICS[metric](ranks, 40)
  )
  wide = np.zeros(1001)
  wide[:1000] = 1.0 if metric == "hr" else 1 / np.log2(np.arange(1000) + 2.0)
  counts = np.bincount(ranks, minlength=1001)
  draws = np.random.default_rng(7).multinomial(300, counts / 300, size=50)
  low, high = np.percentile(draws @ wide / 300, [2.5, 97.5])
  found = metrics.ci95(ranks, metric, most, 50, 7)
  np.testing.assert_allclose(found, [low, high], rtol=1e-12)
  monkeypatch.setattr(metrics, "_MOST_DRAWN", 100)
  again = metrics.ci95(ranks, metric, most, 50, 7)
  np.testing.assert_allclose(again, found, rtol=1e-12)


def test_interval_is_a_function_of_the_seed():
  ranks = np.arange(100)
  first = metrics.summarise_ci95(ranks, [1, 5], samples=50, seed=3)
  assert first == metrics.summarise_ci95(ranks, [1, 5], samples=50, seed=3)
  assert first != metrics.summarise_ci95(ranks, [1, 5], samples=50, seed=4)


@pytest.mark.parametrize("ranks", [[], [[1]], [-1], [0.5]])
def test_what_is_no_rank_is_refused(ranks):
  with pytest.raises(ValueError, match="expected"):
    metrics.ndcg(np.array(ranks), 5)


def test_any_statistic_has_a_bootstrap_interval():
  rng = np.random.default_rng(0)
  ranks = rng.integers(0, 40, size=400)
  low, high = metrics.bootstrap_ci95(
    lambda rows: metrics.hit_rate(ranks[rows], 10), 400, 2000, seed=1
  )
  # The same law as the multinomial draws of `ci95`.
  want = metrics.ci95(ranks, "hr", 10, 2000, seed=2)
  np.testing.assert_allclose([low, high], want, atol=0.01)
  # Draws without the statistic are left out; with no other there is none.
  one = metrics.bootstrap_ci95(
    lambda rows: np.nan if rows[0] else 1.0, 2, 50, seed=0
  )
  assert one == [1.0, 1.0]
  none = metrics.bootstrap_ci95(lambda rows: np.nan, 2, 5, seed=0)
  assert np.isnan(none).all()


@pytest.mark.parametrize("levels", [3, 1000])
def test_auc_is_the_share_of_pairs_won(levels):
  rng = np.random.default_rng(levels)
  labels = rng.random(200) < 0.3
  scores = rng.integers(0, levels, 200) + labels * levels // 4
  pairs = [
    1.0 if p > n else 0.5 if p == n else 0.0
    for p in scores[labels]
    for n in scores[~labels]
  ]
  assert metrics.roc_auc(labels, scores) == np.mean(pairs)
  stats = pytest.importorskip("scipy.stats")
  won = stats.mannwhitneyu(scores[labels], scores[~labels]).statistic
  assert metrics.roc_auc(labels, scores) == won / len(pairs)


def test_auc_needs_both_classes():
  assert np.isnan(metrics.roc_auc(np.ones(3, bool), np.arange(3)))
  assert metrics.roc_auc(np.array([True, False]), np.array([1.0, 0.0])) == 1.0
