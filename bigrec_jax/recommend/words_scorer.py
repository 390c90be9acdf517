"""BM25 of the titles of histories that are in no split."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bigrec_jax.cf import rows
from bigrec_jax.recommend import loaded as loaded_lib

if TYPE_CHECKING:
  from bigrec_jax.rankers import bm25


class Words:
  """BM25 of a catalogue; its index is made here, once.

  An item that was added later has a title like any other, so it is scored, and
  counts in a history.

  Attributes:
    titles: [I] of the catalogue.
  """

  def __init__(
    self, titles: Sequence[str], settings: "bm25.Settings", most: int
  ):
    """Reads the titles.

    Args:
      titles: of all items that are offered.
      settings: k1 and b.
      most: a history counts by so many of its newest items, as in the splits.
    """
    from bigrec_jax.rankers import bm25

    self.titles, self._settings, self._most = titles, settings, most
    self._terms = bm25.Terms(titles)
    self._index = bm25.Index(self._terms, settings)

  def __len__(self) -> int:
    return len(self.titles)

  def __call__(self, history: np.ndarray) -> np.ndarray:
    """Returns scores [n, I] float32; all 0 for a history without any item.

    Args:
      history: [n, H] catalogue rows, padded at the right with -1.
    """
    newest = rows.newest(history, self._most)
    return self._index.scores(self._terms.history_counts(newest))

  def of(self, titles: Sequence[str]) -> "Words":
    """Returns the same of another catalogue; itself where it has no other."""
    if len(titles) == len(self) and tuple(titles) == tuple(self.titles):
      return self
    return Words(titles, self._settings, self._most)


def load(
  loaded: loaded_lib.Loaded, settings: "bm25.Settings | None"
) -> Words | None:
  """Returns the words of all that is offered; None without settings."""
  if settings is None:
    return None
  most = loaded.config.data.max_history
  return Words(loaded.offered.titles, settings, most)
