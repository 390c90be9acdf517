"""The probe's numbers on titles whose answer is known."""

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.results import contamination, significance

EFFORT = significance.Effort(500, 5000, 0)


def test_pairs_are_of_nearly_equal_length_and_each_title_once():
  lengths = np.random.default_rng(0).integers(2, 9, 101)
  chosen = contamination.pairs(lengths, 61, 3)
  assert len(chosen) == 60 == len(set(chosen.tolist()))
  own = lengths[chosen].reshape(-1, 2)
  assert np.abs(own[:, 0] - own[:, 1]).sum() <= np.ptp(lengths)
  assert len(contamination.pairs(lengths, 1000, 3)) == 100
  assert not len(contamination.pairs(lengths[:1], 10, 3))


def test_partners_are_each_others():
  others = contamination.other_of_pair(6)
  assert others.tolist() == [1, 0, 3, 2, 5, 4]


def test_agreement_counts_tokens_in_their_places():
  written = [[1, 2, 3, 9], [4, 9, 6, -1], [7, -1, -1, -1]]
  halves = [[1, 2, 3], [4, 5, 6, 7], [8, 7]]
  found = contamination.agreement(written, halves)
  np.testing.assert_allclose(found, [1.0, 0.5, 0.0])


def test_a_base_that_knows_nothing_and_one_that_knows_all():
  """Scores are a base rate of the half, and 1 more where it belongs."""
  rng = np.random.default_rng(0)
  rate = rng.normal(-5, 2, 80)
  noise = rng.normal(0, 0.2, (2, 80))
  blind = contamination.Measure.of(rate + noise[0], rate + noise[1], EFFORT)
  assert blind.p > 0.05 and blind.ci95[0] < 0 < blind.ci95[1]
  knows = contamination.Measure.of(rate + 1 + noise[0], rate + noise[1], EFFORT)
  assert knows.p < 1e-3 and knows.ci95[0] > 0.9
  assert knows.difference == pytest.approx(knows.own - knows.exchanged)


def test_the_file_comes_back(tmp_path):
  path = tmp_path / "contamination.json"
  measure = contamination.Measure(0.1, 0.2, -0.1, (-0.2, 0.0), 0.5)
  probe = contamination.Probe(
    20, 30, measure, measure, measure, ("A title",), {"base": "00"}
  )
  probe.write(path)
  assert contamination.read(path) == probe
  path.write_text('{"schema": 1, "num_titles": -1}')
  with pytest.raises(errors.UserError, match="num_titles: -1 found"):
    contamination.read(path)
