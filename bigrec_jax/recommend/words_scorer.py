"""BM25 of the titles of histories that are in no split."""

from typing import TYPE_CHECKING

import numpy as np

from bigrec_jax.cf import rows
from bigrec_jax.recommend import cf_scorer, loaded as loaded_lib

if TYPE_CHECKING:
  from bigrec_jax.rankers import bm25


def load(
  loaded: loaded_lib.Loaded, settings: "bm25.Settings"
) -> cf_scorer.Scorer:
  """Returns the scores by words; the index of all titles is made here, once.

  A history counts by its newest `data.max_history` items, as in the splits;
  one without any scores 0 everywhere.

  Args:
    loaded: configuration and workdir.
    settings: k1 and b.
  """
  from bigrec_jax.rankers import bm25

  terms = bm25.Terms(loaded.catalogue.titles)
  index, most = bm25.Index(terms, settings), loaded.config.data.max_history

  def score(history: np.ndarray) -> np.ndarray:
    return index.scores(terms.history_counts(rows.newest(history, most)))

  return score
