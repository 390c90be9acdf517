"""How titles without history are asked for; scores are tested in decoding."""

import numpy as np
import pytest

from bigrec_jax import progress
from bigrec_jax.recommend import title_scorer


class Recorded(title_scorer.TitleScorer):
  """Gives title n the score n, and keeps the sizes that it was asked in."""

  _nothing = [1, 2]

  def __init__(self):
    self.sizes = set()

  def __call__(self, tokens, candidates, progress, kept=None, prefix=None):
    assert list(tokens) == [[1, 2]] * len(candidates)
    self.sizes.add(candidates.shape[1])
    return candidates.astype(np.float32)


@pytest.mark.parametrize("count", [1, 5, 127, 128, 129, 300])
def test_any_number_of_titles_is_asked_in_one_size(count):
  """Another size would be another program, in every call of a recommender."""
  scorer, titles = Recorded(), np.arange(7, 7 + count)
  found = scorer.without_history(titles, progress.NullProgress())
  np.testing.assert_array_equal(found, titles)
  assert scorer.sizes == {128}
