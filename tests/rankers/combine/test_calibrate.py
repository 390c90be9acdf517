"""Grids and choices of gamma."""

import numpy as np
import pytest

from bigrec_jax import errors
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
