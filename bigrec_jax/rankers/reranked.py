"""Ranks where candidates come first, in an order of their own.

The rows of a user's candidate titles come first, by score, equal scores in
catalogue order; all other items follow in the order of the published distance.
No list of the catalogue is made: of a target that is no candidate the rank is
its published one, and one more for each candidate row behind it.

Letters: N users, M candidates, I items, D width.
"""

import dataclasses

import numpy as np

from bigrec_jax.rankers.distance import distance, user_block


@dataclasses.dataclass(frozen=True, eq=False)
class _Given:
  """A catalogue as `distance.exact_pairs` asks for it."""

  host: np.ndarray


class Reranked:
  """The users of a split, ranked under any scores of their candidates.

  Attributes:
    found: share of users whose target is a candidate.
  """

  def __init__(
    self,
    candidates: np.ndarray,
    groups: np.ndarray,
    targets: np.ndarray,
    duplicates: str,
    embeddings: np.ndarray,
    queries: np.ndarray,
    plain: np.ndarray,
  ):
    """Prepares what no score changes.

    Args:
      candidates: [N, M] int32 title numbers (`Catalogue.groups`), each once in
        a row, -1 = none.
      groups: [I] int32, `Catalogue.groups`.
      targets: [N] catalogue rows to look for (`duplicates.targets_by`).
      duplicates: `ground.duplicates`; by `best` a target is found where the
        first row of its title is.
      embeddings: [I, D] float32.
      queries: [N, D] float32, of the published order.
      plain: [N] ranks by the published distance.
    """
    groups = np.asarray(groups, np.int32)
    members = user_block.members(groups)
    self._candidates = candidates
    sizes = np.bincount(groups, minlength=len(groups))
    self._sizes = np.where(candidates >= 0, sizes[candidates], 0)  # [N, M]
    self._titles = groups[targets]
    self._own = candidates == self._titles[:, None]
    if duplicates == "best":
      targets = self._titles  # The first row of a title is its number.
    self._before_in_title = np.array(
      [
        np.searchsorted(members.order[start:stop], target)
        for start, stop, target in zip(
          members.starts[self._titles],
          members.starts[self._titles + 1],
          targets,
          strict=True,
        )
      ]
    )
    self._targets, self._members = targets, members
    self.found = float(self._own.any(axis=1).mean())
    self._others = plain + self._behind(embeddings, queries)

  def _behind(self, embeddings: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Returns [N] how many candidate rows come after the target by distance."""
    table = _Given(embeddings)
    behind = np.zeros(len(queries), np.int64)
    some = (self._candidates >= 0).any(axis=1)
    for user in np.flatnonzero(some & ~self._own.any(axis=1)):
      titles = self._candidates[user]
      rows = self._members.rows(titles[titles >= 0]).ravel()
      rows = np.append(rows[rows >= 0], self._targets[user])
      exact = distance.exact_pairs(
        queries, table, np.full(len(rows), user), rows
      )
      rows, exact, own = rows[:-1], exact[:-1], exact[-1]
      tied = (exact == own) & (rows > self._targets[user])
      behind[user] = np.count_nonzero((exact > own) | tied)
    return behind

  def ranks(self, scores: np.ndarray) -> np.ndarray:
    """Returns the ranks [N] int32 under scores [N, M] of the candidates."""
    scores = np.where(self._candidates >= 0, scores, -np.inf)
    own = np.where(self._own, scores, -np.inf).max(axis=1, keepdims=True)
    before = (scores > own).astype(np.int64) * self._sizes
    ranks = before.sum(axis=1) + self._before_in_title
    # Equal scores are in catalogue order, row by row.
    tied = (scores == own) & ~self._own & (self._candidates >= 0)
    for user, column in zip(*np.nonzero(tied), strict=True):
      rows = self._members.rows(self._candidates[user, column, None])[0]
      ranks[user] += np.count_nonzero(rows[rows >= 0] < self._targets[user])
    return np.where(self._own.any(axis=1), ranks, self._others).astype(np.int32)
