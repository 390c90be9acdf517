"""Paired tests against scipy, slow loops and a worked example."""

import numpy as np
import pytest
from scipy import stats

from bigrec_jax.results import metrics, significance

HR10 = significance.Question("hr", 10)
NDCG10 = significance.Question("ndcg", 10)
EFFORT = significance.Effort(4000, 20000, 3)


def ranks_of(seed: int, scale: float, users: int, seeds: int = 0) -> np.ndarray:
  rng = np.random.default_rng(seed)
  shape = (seeds, users) if seeds else users
  return rng.geometric(scale, size=shape) - 1


def scipys(differences: np.ndarray, flips: int):
  """Returns scipy's paired permutation test of the mean difference."""
  return stats.permutation_test(
    (differences, np.zeros_like(differences)),
    lambda a, b, axis: (a - b).mean(axis=axis),
    permutation_type="samples",
    n_resamples=flips,
    vectorized=True,
    batch=500,
    rng=np.random.default_rng(0),
  )


@pytest.mark.parametrize("question", [HR10, NDCG10])
def test_gains_add_up_to_the_metric(question):
  ranks = ranks_of(0, 0.05, 500)
  want = metrics.METRICS[question.metric](ranks, question.k)
  found = significance.gains(ranks, question).mean()
  assert found == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_all_flips_are_scipys_exact_test(seed):
  rng = np.random.default_rng(seed)
  differences = rng.normal(0.3, 1.0, 12)
  (found,) = significance.sign_flip_p(differences[None], 2**12, 0)
  assert found == pytest.approx(scipys(differences, 2**12).pvalue, abs=1e-12)


@pytest.mark.parametrize(("a", "b"), [(0.02, 0.015), (0.03, 0.02)])
def test_random_flips_agree_with_scipys(a, b):
  one, other = ranks_of(1, a, 600), ranks_of(2, b, 600)
  both = [significance.gains(ranks, NDCG10) for ranks in (one, other)]
  want = scipys(both[0] - both[1], 20000).pvalue
  found = significance.compare(one, other, NDCG10, EFFORT)
  # Two counts of 20,000 draws each: four standard errors of their difference.
  error = 4 * np.sqrt(2 * want * (1 - want) / 20000)
  assert found.p == pytest.approx(want, abs=error)
  assert found.difference == pytest.approx(
    metrics.ndcg(one, 10) - metrics.ndcg(other, 10), abs=1e-12
  )
  assert (found.n, found.seeds, found.test) == (600, (1, 1), significance.FLIPS)


def test_random_flips_never_give_zero():
  rows = np.random.default_rng(0).uniform(1, 2, (1, 64))
  (found,) = significance.sign_flip_p(rows, 999, 0)
  assert found == 1 / 1000


def test_hit_rates_are_mcnemars_exact_test():
  """Wins and losses 15 : 4, two-sided 2 P(X <= 4 | 19, 1/2)."""
  one = np.array([0] * 15 + [99] * 4 + [3] * 30 + [80] * 200)
  other = np.array([99] * 15 + [0] * 4 + [2] * 30 + [70] * 200)
  found = significance.compare(one, other, HR10, EFFORT)
  tail = sum(stats.binom.pmf(n, 19, 0.5) for n in range(5))
  assert found.p == pytest.approx(2 * tail, abs=1e-12)
  assert found.difference == pytest.approx(11 / 249)


def test_whole_numbers_of_hits_are_exact_as_all_flips_are():
  rng = np.random.default_rng(4)
  for scale in (1.0, 0.3):
    row = scale * rng.integers(-4, 6, 16)
    flips = 2 * np.indices((2,) * 16).reshape(16, -1) - 1
    far = np.abs(row @ flips) >= abs(row.sum()) - 1e-9
    (found,) = significance.sign_flip_p(row[None], 10, 0)
    assert found == pytest.approx(far.mean(), rel=1e-9)
  # Far beyond what random flips can tell.
  (found,) = significance.sign_flip_p(np.tile([2.0, 1.0], 40)[None], 10, 0)
  assert found == pytest.approx(2 * 0.5**80, rel=1e-6)


def test_many_users_of_one_size_are_exact_where_flips_would_be_random():
  one = np.array([0] * 400 + [99] * 300)
  other = np.array([99] * 400 + [0] * 300)
  few = significance.Effort(10, 1, 0)
  found = significance.compare(one, other, NDCG10, few).p
  assert found == pytest.approx(2 * stats.binom.cdf(300, 700, 0.5), rel=1e-9)


def test_equal_ranks_have_a_p_of_one():
  ranks = ranks_of(0, 0.1, 50)
  found = significance.compare(ranks, ranks, NDCG10, EFFORT)
  assert (found.difference, found.p, found.ci95) == (0.0, 1.0, (0.0, 0.0))


def test_blocks_of_draws_change_nothing(monkeypatch):
  one, other = ranks_of(1, 0.03, 300), ranks_of(2, 0.02, 300)
  many = significance.compare(one, other, NDCG10, EFFORT)
  rows = (one < 10).sum() + (other < 10).sum()
  monkeypatch.setattr(significance, "_MOST_DRAWN", int(rows) * 700)
  assert significance.compare(one, other, NDCG10, EFFORT) == many


def test_the_interval_is_scipys_bootstrap():
  one, other = ranks_of(1, 0.03, 400), ranks_of(2, 0.02, 400)
  both = [significance.gains(ranks, NDCG10) for ranks in (one, other)]
  found = significance.compare(one, other, NDCG10, EFFORT)
  want = stats.bootstrap(
    (both[0] - both[1],),
    np.mean,
    n_resamples=4000,
    method="percentile",
    rng=np.random.default_rng(1),
  ).confidence_interval
  spread = want.high - want.low
  assert found.ci95[0] == pytest.approx(want.low, abs=0.05 * spread)
  assert found.ci95[1] == pytest.approx(want.high, abs=0.05 * spread)


def _slow_draws(a, b, samples, seed):
  """Draws seeds and users one by one."""
  rng = np.random.default_rng(seed)
  found = []
  for _ in range(samples):
    users = rng.integers(0, a.shape[1], a.shape[1])
    means = []
    for own in (a, b):
      seeds = rng.integers(0, len(own), max(1, len(own) - 1))
      means.append(np.mean([own[s][users].mean() for s in seeds]))
    found.append(means[0] - means[1])
  return np.array(found)


@pytest.mark.parametrize("seeds", [(3, 3), (5, 1), (2, 3)])
def test_seeds_and_users_agree_with_a_loop(seeds):
  shift = np.array([0.02, 0.03, 0.05, 0.025, 0.035])
  a = np.stack([ranks_of(n, shift[n], 200) for n in range(seeds[0])])
  b = np.stack([ranks_of(9 + n, 0.02, 200) for n in range(seeds[1])])
  one, other = (significance.gains(ranks, NDCG10) for ranks in (a, b))
  want = _slow_draws(one, other, 4000, 0)
  drawn = significance.seeds_and_users(one, other, EFFORT)
  assert drawn.mean() == pytest.approx(want.mean(), abs=4 * want.std() / 60)
  assert drawn.std() == pytest.approx(want.std(), rel=0.06)
  found = significance.compare(a, b, NDCG10, EFFORT)
  low, high = np.percentile(want, [2.5, 97.5])
  assert found.ci95[0] == pytest.approx(low, abs=0.06 * (high - low))
  assert found.ci95[1] == pytest.approx(high, abs=0.06 * (high - low))
  centre = one.mean() - other.mean()
  p = np.mean(np.abs(want - centre) >= abs(centre))
  assert found.p == pytest.approx(p, abs=0.03)
  assert (found.seeds, found.test) == (seeds, significance.SEEDS)


def test_the_variance_of_seeds_is_that_of_their_mean():
  """Users who are all alike leave the seeds alone: variance s**2 / S."""
  rates = np.array([0.1, 0.4, 0.2])
  a = np.repeat(rates[:, None], 50, axis=1)
  drawn = significance.seeds_and_users(
    a, np.zeros((1, 50)), significance.Effort(200_000, 1, 0)
  )
  assert drawn.var() == pytest.approx(rates.var(ddof=1) / 3, rel=0.02)


def test_seeds_of_one_kind_have_the_users_interval():
  """Three equal seeds are one seed, but for the draws."""
  one, other = ranks_of(1, 0.03, 400), ranks_of(2, 0.02, 400)
  effort = significance.Effort(40_000, 40_000, 0)
  alone = significance.compare(one, other, NDCG10, effort)
  thrice = significance.compare(np.stack([one] * 3), other, NDCG10, effort)
  spread = alone.ci95[1] - alone.ci95[0]
  np.testing.assert_allclose(thrice.ci95, alone.ci95, atol=0.02 * spread)
  assert thrice.difference == pytest.approx(alone.difference)
  assert thrice.p == pytest.approx(alone.p, abs=0.02)


def test_p_is_uniform_where_nothing_differs():
  """Of 400 worlds without a difference 5 % are below .05."""
  rng = np.random.default_rng(7)
  effort = significance.Effort(1, 999, 0)
  p = [
    significance.compare(*rng.integers(0, 30, (2, 80)), NDCG10, effort).p
    for _ in range(400)
  ]
  low, high = stats.binom.interval(0.999, 400, 0.05)
  assert low <= np.sum(np.array(p) <= 0.05) <= high


def test_holm_is_the_worked_example():
  """Wikipedia, Holm-Bonferroni method: .01, .04, .03, .005 at alpha .05."""
  found = significance.holm([0.01, 0.04, 0.03, 0.005])
  np.testing.assert_allclose(found, [0.03, 0.06, 0.06, 0.02])


def _holms_steps(p, alpha):
  """Rejects the smallest first, until one is too large."""
  rejected = [False] * len(p)
  for step, place in enumerate(np.argsort(p, kind="stable")):
    if p[place] > alpha / (len(p) - step):
      break
    rejected[place] = True
  return rejected


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_holm_rejects_what_his_steps_reject(alpha):
  rng = np.random.default_rng(0)
  for _ in range(50):
    p = rng.beta(0.3, 1.0, size=12)
    found = np.array(significance.holm(p)) <= alpha
    assert found.tolist() == _holms_steps(p, alpha)


def test_holm_of_nothing_is_nothing():
  assert significance.holm([]) == []


@pytest.mark.parametrize(
  ("a", "b"),
  [
    (np.zeros(3, int), np.zeros(4, int)),
    (np.zeros(0, int), np.zeros(0, int)),
    (np.array([0.5]), np.array([1])),
    (np.array([-1]), np.array([1])),
  ],
)
def test_ranks_that_are_no_pair_are_refused(a, b):
  with pytest.raises(ValueError, match="expected|wanted"):
    significance.compare(a, b, HR10, EFFORT)
