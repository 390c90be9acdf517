"""Grids and choices of gamma."""

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.rankers import baselines
from bigrec_jax.rankers.combine import calibrate
from tests.rankers import published


@pytest.mark.parametrize("name", published.GRIDS)
def test_published_grids(name):
  np.testing.assert_array_equal(
    calibrate.parse_grid(name), sorted(set(published.GRIDS[name]))
  )


def test_numbers_are_sorted_and_unique():
  np.testing.assert_array_equal(
    calibrate.parse_grid("1,0, 0.5,1"), [0.0, 0.5, 1.0]
  )


@pytest.mark.parametrize(
  "text", ["", "movie", "1,,2", "-1", "nan", "inf", "1e9"]
)
def test_what_is_no_grid_is_refused(text):
  with pytest.raises(errors.UserError, match="config.ground.gamma_grid"):
    calibrate.parse_grid(text)


def test_the_first_of_equal_best_gammas_is_chosen():
  gammas = np.array([0.0, 0.5, 1.0, 2.0])
  assert calibrate.first_best(np.array([0.1, 0.3, 0.3, 0.2]), gammas) == 0.5
  assert calibrate.first_best(np.zeros(4), gammas) == -1.0


def _curve(ndcg, hr):
  return {
    "ndcg": {"5": np.array(ndcg), "20": np.array(ndcg[::-1])},
    "hr": {"5": np.array(hr), "20": np.array(hr)},
  }


def test_choices_of_both_protocols():
  gammas = np.array([0.0, 1.0, 2.0])
  curve = _curve([0.1, 0.4, 0.2], [0.3, 0.2, 0.5])
  choice = calibrate.choose("bigrec", curve, gammas, (5,), False)
  assert choice.report == {"ndcg": {"5": 1.0}, "hr": {"5": 2.0}}
  assert choice.gammas == [1.0, 2.0]
  quirky = calibrate.choose("bigrec", curve, gammas, (5,), True)
  assert quirky.report == {"ndcg": {"5": 1.0}, "hr": {"5": 1.0}}
  # NDCG@20 decides though 20 isn't reported.
  curve["ndcg"]["20"] = np.array([0.1, 0.1, 0.2])
  single = calibrate.choose("single_gamma", curve, gammas, (5,), False)
  assert single.report == 2.0 and single.gammas == [2.0]
  curve["ndcg"]["20"] = np.zeros(3)
  mildest = calibrate.choose("single_gamma", curve, gammas, (5,), False)
  assert mildest.report == 0.0


def test_score_ranks_equal_a_stable_sort():
  rng = np.random.default_rng(0)
  scores = rng.integers(0, 6, size=(23, 61)).astype(np.float32)
  titles = [f"t{i % 50}" for i in range(61)]
  targets = rng.integers(0, 61, size=23)
  groups = published.groups(titles)
  np.testing.assert_array_equal(
    baselines.score_ranks(scores, targets, groups),
    published.ranks(-scores, titles, targets, "best"),
  )
  popularity = rng.integers(0, 9, size=61)
  np.testing.assert_array_equal(
    baselines.popularity_ranks(popularity, targets, groups),
    published.ranks(
      -np.broadcast_to(popularity, (23, 61)), titles, targets, "best"
    ),
  )


def test_random_ranks_are_uniform_and_the_best_of_duplicates():
  targets = np.array([0, 5] * 20000)
  groups = np.arange(10, dtype=np.int32)
  groups[[0, 1, 2]] = 0
  ranks = baselines.random_ranks(10, targets, groups, seed=0)
  single = np.bincount(ranks[1::2], minlength=10) / 20000
  np.testing.assert_allclose(single, 0.1, atol=0.01)
  # The least of three of ten places without repetition: 9 over 4 on average.
  assert abs(ranks[::2].mean() - 7 / 4) < 0.03
