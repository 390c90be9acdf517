"""Confidence against scipy's minimum, made-up users, and what a list gains."""

import numpy as np
import pytest
from scipy import optimize

from bigrec_jax import errors
from bigrec_jax.results import confidence

CUTOFFS = (1, 5, 20)


def _world(users, seed=0):
  """Signs and ranks whose law is known: exact titles are right more often."""
  rng = np.random.default_rng(seed)
  exact = rng.random(users) < 0.6
  cold = rng.random(users) < 0.1
  signs = confidence.Signs(
    exact,
    np.where(exact, 0.0, rng.uniform(0.05, 0.4, users)),
    np.log(rng.uniform(0.01, 0.9, users)),
    np.where(cold, -1, rng.integers(0, 300, users)).astype(np.int32),
    cold,
  )
  logit = signs.matrix() @ [1.0, -3.0, 1.5, 2.0, -0.5] - 1.0
  # P(rank < k) rises with log k, one logistic for each k.
  ranks = np.exp(rng.logistic(size=users) - logit) * 2
  return signs, np.minimum(ranks, 1e6).astype(np.int64)


def test_the_fit_is_the_minimum_of_the_penalised_loss():
  signs, ranks = _world(400)
  found = confidence.fit(signs, ranks, CUTOFFS)
  matrix = signs.matrix()
  scaled = (matrix - matrix.mean(0)) / matrix.std(0)
  for n, k in enumerate(CUTOFFS):
    hits = (ranks < k).astype(float)

    def loss(x, hits=hits):
      logits = x[0] + scaled @ x[1:]
      own = np.logaddexp(0, logits) - hits * logits
      half = 0.5 * (2 * np.logaddexp(0, x[0]) - x[0])  # Half a hit, half none.
      return own.sum() + half + 0.5 * (x[1:] ** 2).sum()

    best = optimize.minimize(loss, np.zeros(6), tol=1e-12).x
    weights = best[1:] / matrix.std(0)
    np.testing.assert_allclose(found.weights[n], weights, rtol=1e-3, atol=1e-4)
    chances = 1 / (1 + np.exp(-(best[0] + scaled @ best[1:])))
    alone = confidence.Confidence(
      found.cutoffs[n : n + 1],
      found.intercepts[n : n + 1],
      found.weights[n:][:1],
    )
    np.testing.assert_allclose(alone(signs, k), chances, atol=1e-5)


def test_it_says_of_other_users_what_is_so():
  found = confidence.fit(*_world(4000), CUTOFFS)
  signs, ranks = _world(4000, seed=1)
  for own in confidence.tested(found, signs, ranks).values():
    assert own["says"] == pytest.approx(own["is"], abs=0.03)
    assert own["error"] < 0.04
  sure = found(signs, 5) > 0.6
  assert (ranks < 5)[sure].mean() > (ranks < 5)[~sure].mean() + 0.2


def test_longer_lists_are_surer_and_keep_to_what_was_measured():
  signs, ranks = _world(500)
  found = confidence.fit(signs, ranks, CUTOFFS)
  chances = np.stack([found(signs, k) for k in (1, 2, 3, 5, 9, 20, 500)])
  assert (np.diff(chances, axis=0) >= 0).all()
  np.testing.assert_array_equal(chances[-1], chances[-2])
  later = confidence.fit(signs, ranks, (5, 20))
  np.testing.assert_allclose(later(signs, 1), later(signs, 5) / 5)


@pytest.mark.parametrize("rank", [0, 99])
def test_where_all_or_nobody_hits_a_doubt_stays(rank):
  signs, _ = _world(50)
  found = confidence.fit(signs, np.full(50, rank), CUTOFFS)
  expected = 50.5 / 51 if rank == 0 else 0.5 / 51
  np.testing.assert_allclose(found(signs, 5), expected, rtol=0.05)


def test_unknown_scores_and_no_cf_are_no_signs():
  signs, ranks = _world(60)
  nothing = signs._replace(
    log_prob=np.full(60, np.nan), place=np.full(60, -1), cold=np.zeros(60, bool)
  )
  assert (nothing.matrix()[:, 2:] == 0).all()
  found = confidence.fit(nothing, ranks, CUTOFFS)
  assert np.isfinite(found(nothing, 5)).all()
  assert (found.weights[:, 2:] == 0).all()


def test_far_is_where_cf_alone_is_better():
  """Beyond a distance of .3 the text is worth nothing, within it all."""
  signs, _ = _world(2000)
  far = ~signs.exact & (signs.distance > 0.3)
  ranks = np.where(far, 500, 2)
  alone = np.full(2000, 4)
  found = confidence.far_distance(signs, ranks, alone)
  assert 0.27 < found < 0.33
  own = confidence.fit(signs, ranks, CUTOFFS, found)
  flagged = own.is_far(signs)
  assert not flagged[signs.exact].any()
  assert flagged[far].mean() > 0.9 and flagged[~far].mean() < 0.05
  # Where the text is never worse, only texts farther than any of valid are far.
  most = signs.distance[~signs.exact].max()
  assert confidence.far_distance(signs, np.full(2000, 1), alone) == most
  assert confidence.far_distance(signs, ranks, None) == most
  few = confidence.Signs(*(column[:5] for column in signs))
  assert confidence.far_distance(few, ranks[:5], alone[:5]) == 0.5


def test_it_is_read_as_it_was_written():
  signs, ranks = _world(100)
  found = confidence.fit(signs, ranks, CUTOFFS, 0.25)
  again = confidence.Confidence.from_json(found.to_json(), "x")
  np.testing.assert_array_equal(again(signs, 7), found(signs, 7))
  assert again.far == 0.25
  never = confidence.fit(signs, ranks, CUTOFFS)
  assert confidence.Confidence.from_json(never.to_json(), "x").far == np.inf
  bad = found.to_json() | {"weights": [[1.0]]}
  with pytest.raises(errors.UserError, match="x.weights: .* found"):
    confidence.Confidence.from_json(bad, "x")
