"""What the tuned model makes of a few titles of every user.

Letters: N users, M titles of a user, W texts.
"""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bigrec_jax import progress as reports
from bigrec_jax.recommend import loaded as loaded_lib, title_scorer

if TYPE_CHECKING:
  from bigrec_jax.decoding import generate
  from bigrec_jax.rankers import protocol


class Likely(NamedTuple):
  """Titles with their log-probabilities.

  Attributes:
    titles: [N, M] int32 title numbers (`Catalogue.groups`), -1 = none.
    after: [N, M] float32 log p(title | history), -inf where there is none.
    alone: [N, M] float32 log p(title | no history), likewise.
  """

  titles: np.ndarray
  after: np.ndarray
  alone: np.ndarray

  def scores(self, weight: float) -> np.ndarray:
    """Returns [N, M]: what a history adds to a share of the base rate."""
    there = self.titles >= 0
    alone = np.where(there, self.alone, np.float32(0))
    return np.where(there, self.after - np.float32(weight) * alone, -np.inf)


class LikelyTitles:
  """The tuned model as a judge of titles, for any number of calls."""

  def __init__(
    self,
    loaded: loaded_lib.Loaded,
    adapter: pathlib.Path,
    items: np.ndarray,
    most: int,
  ):
    """Loads the adapter and puts the catalogue on the mesh.

    Args:
      loaded: configuration and workdir.
      adapter: a PEFT directory.
      items: [I, D] float32, embeddings of the catalogue.
      most: M.
    """
    from bigrec_jax.rankers.distance import streamed

    catalogue = loaded.offered
    self._loaded, self._most = loaded, min(most, len(catalogue))
    self._table = streamed.streamed(items, catalogue.groups, loaded.mesh)
    self._scorer = title_scorer.TitleScorer(loaded, adapter)
    # A title's own log-probability never changes: asked once.
    self._alone = np.full(len(catalogue) + 1, np.nan, np.float32)
    self._alone[-1] = -np.inf  # Of what no title is.

  @property
  def num_items(self) -> int:
    """I."""
    return len(self._loaded.offered)

  def __call__(
    self,
    texts: Sequence[Sequence[str]],
    queries: np.ndarray,
    prompts: Sequence[Sequence[int]],
    prefix: "generate.Prefix | None",
    cf: "protocol.Ranker | None",
  ) -> Likely:
    """Returns the titles of N users with what the model makes of them.

    Args:
      texts: cleaned titles that were written, best first.
      queries: [N, D] float32, embeddings of the first ones.
      prompts: tokens.
      prefix: what they begin with; None = found here.
      cf: of these users; None = there is no CF.
    """
    from bigrec_jax.rankers import candidates

    titles = candidates.of_users(
      self._table,
      written(self._loaded, texts),
      queries,
      cf,
      self._most,
      self._loaded.config.ground,
    )
    progress = reports.NullProgress()
    after = self._scorer(prompts, titles, progress, prefix=prefix)
    new = np.unique(titles[np.isnan(self._alone[titles])])
    if new.size:
      self._alone[new] = self._scorer.without_history(new, progress)
    return Likely(titles, after, self._alone[titles])


def written(
  loaded: loaded_lib.Loaded, texts: Sequence[Sequence[str]]
) -> np.ndarray:
  """Returns the titles that texts are exactly [N, W], -1 where they aren't."""
  found = np.full((len(texts), max(map(len, texts))), -1, np.int32)
  for own, titles in zip(found, texts, strict=True):
    rows = map(loaded.offered.index_of_clean_title, titles)
    own[: len(titles)] = [-1 if row is None else row for row in rows]
  return found
