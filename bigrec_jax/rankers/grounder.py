"""From predicted texts to the items that a user is shown.

The fused distances are those that ground_eval ranks by; a list leaves out what
the user has had, and names every title once.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from bigrec_jax.config import GroundConfig
from bigrec_jax.devices import blocks
from bigrec_jax.rankers.combine import injection
from bigrec_jax.rankers.distance import lists, streamed

_FEW = 64  # Users of a call whose blocks have its size, up to a power of two.
_MOST_LISTED = 1 << 20  # Items in the lists of a block of users.
# CF scores that a block of users may have; they are whole rows.
_MOST_CF_SCORES = 1 << 26

# Users of the batch to their CF scores [n, I] float32.
ReadScores = Callable[[slice], np.ndarray]


class Recommended(NamedTuple):
  """Items of N users, best first.

  Attributes:
    items: [N, k] int32 catalogue rows; -1 = there are no more.
    scores: [N, k] float64, 1 - fused^(1 / (1 + gamma)), in [0, 1]: 1 for the
      item nearest to the text, 0 for the farthest that nothing favours. Of two
      gammas the larger counts here.
    distances: [N, k] float64, L2 distance of the texts' embeddings.
    cf_ranks: [N, k] int32, place of the item by CF score alone, from 1; None
      where no CF is injected.
  """

  items: np.ndarray
  scores: np.ndarray
  distances: np.ndarray
  cf_ranks: np.ndarray | None

  def cut(self, k: int) -> "Recommended":
    """Returns the first k items of lists."""
    ranks = self.cf_ranks
    return Recommended(
      self.items[:, :k],
      self.scores[:, :k],
      self.distances[:, :k],
      None if ranks is None else ranks[:, :k],
    )


class Grounder:
  """A catalogue on the mesh, from which lists are made.

  Attributes:
    table: the catalogue.
  """

  def __init__(
    self,
    item_embeddings: np.ndarray,
    groups: np.ndarray,
    popularity: np.ndarray | None,
    gamma: float | Mapping[str, float],
    config: GroundConfig,
    mesh: Mesh,
    *,
    most_users: int,
    real: np.ndarray | None = None,
  ):
    """Puts the catalogue on the mesh.

    Args:
      item_embeddings: [I, D] float32.
      groups: [I] int32, `Catalogue.groups`: rows of one title.
      popularity: [I] counts to inject; None = don't.
      gamma: strength of what is injected, at least 0: one for all parts, or
        each part's own, {"popularity": ..., "cf": ...}.
      config: section `ground`.
      mesh: over which catalogue rows are sharded.
      most_users: of a block.
      real: [I] bool, see `streamed.Streamed`.

    Raises:
      UserError: a count isn't finite, or all are equal.
    """
    self.table = streamed.streamed(item_embeddings, groups, mesh, real)
    self._counts: np.ndarray | None = None
    self._popularity: injection.Popularity | None = None
    self._inject(popularity)
    self._gammas = injection.Gammas.of(gamma)
    self._most_items = config.block_items
    self._rows = max(1, min(config.batch_size, most_users))

  def __call__(
    self,
    queries: np.ndarray,
    hidden: np.ndarray,
    read_scores: ReadScores | None,
    k: int,
    allowed: np.ndarray | None = None,
  ) -> Recommended:
    """Returns the lists of N users.

    Few users share a small block, so that one does not wait for many.

    Args:
      queries: [N, D] float32, embeddings of the predictions.
      hidden: [N, H] catalogue rows that aren't listed, padded with -1.
      read_scores: CF scores to inject, asked for a block at a time; None =
        don't.
      k: items in a list, at most I are.
      allowed: [I] bool, which rows may be listed, at least one; None = all.
    """
    rows = self._rows
    if len(queries) <= _FEW:
      rows = min(rows, 1 << (len(queries) - 1).bit_length())
    if read_scores is not None:
      rows = max(1, min(rows, _MOST_CF_SCORES // len(self.table.host)))
    rows = max(1, min(rows, _MOST_LISTED // min(k, len(self.table.host))))
    parts = [
      self._block(
        queries[part], hidden[part], part, rows, read_scores, k, allowed
      )
      for part in blocks.user_blocks(len(queries), rows)
    ]
    items, scores, distances, cf_ranks = zip(*parts, strict=True)
    return Recommended(
      np.concatenate(items),
      np.concatenate(scores),
      np.concatenate(distances),
      None if read_scores is None else np.concatenate(cf_ranks),
    )

  def _block(
    self,
    queries: np.ndarray,
    hidden: np.ndarray,
    part: slice,
    rows: int,
    read_scores: ReadScores | None,
    k: int,
    allowed: np.ndarray | None,
  ) -> Recommended:
    users, scores = self._users(queries, part, rows, read_scores)
    k = min(k, len(self.table.host))
    found = lists.new_titles(
      self.table, users, k, hidden, self._most_items, allowed
    )
    # The power changes no order. It makes the fused distance the geometric
    # mean of dn and, gamma times, of 1 / (1 + w): with a gamma of 50 all of a
    # list would have a score of 1.0000 otherwise. Two gammas are the larger one
    # and a power of at most 1 on the other part's weight, so that a score is
    # the same whether equal gammas are given as one or as two.
    # The spread is a bound: the very farthest may be beyond it.
    fused = np.clip(found.fused / found.spread[:, None], 0.0, 1.0)
    fused **= 1.0 / (1.0 + max(self._gammas))
    return Recommended(
      found.items,
      1.0 - fused,
      found.distances,
      None if scores is None else places(scores, found.items),
    )

  def _users(
    self,
    queries: np.ndarray,
    part: slice,
    rows: int,
    read_scores: ReadScores | None,
  ) -> tuple[lists.Users, np.ndarray | None]:
    """Returns a block of users, and the CF scores that are injected."""
    scores = cf = None
    if read_scores is not None:
      scores = np.ascontiguousarray(read_scores(part), np.float32)
      cf = injection.cf_block(scores, part.start, "CF", rows, self.table)
    users = lists.Users(
      queries,
      rows,
      injection.Injection(self._popularity, cf),
      self._gammas,
      part.start,
      "recommend",
    )
    return users, scores

  def warm_up(
    self,
    queries: np.ndarray,
    hidden: np.ndarray,
    read_scores: ReadScores | None,
    k: int,
  ) -> None:
    """Compiles all that lists of this size may take, one block of users.

    The arguments are those of a call; whatever `allowed` it has.
    """
    rows = min(self._rows, 1 << (len(queries) - 1).bit_length())
    part = slice(0, len(queries))
    users, _ = self._users(queries, part, rows, read_scores)
    k = min(k, len(self.table.host))
    spare = lists.spare_of(hidden.shape[1])
    lists.warm_up(self.table, users, k, spare, self._most_items)

  def rewritten(self, rows: slice, popularity: np.ndarray | None) -> None:
    """Takes other vectors of some rows from the array that was given.

    Args:
      rows: that were changed.
      popularity: [I] counts to inject from now on; None = don't.
    """
    self.table = streamed.rewritten(self.table, rows)
    self._inject(popularity)

  def _inject(self, popularity: np.ndarray | None) -> None:
    """Puts counts [I] on the mesh, unless they are there."""
    known = self._counts
    if popularity is None:
      self._counts = self._popularity = None
    elif known is None or not np.array_equal(popularity, known):
      self._counts = popularity
      self._popularity = injection.Popularity(popularity, self.table)


def places(scores: np.ndarray, items: np.ndarray) -> np.ndarray:
  """Returns the places [n, k] of items [n, k] by scores [n, I], from 1."""
  columns = []
  for column in items.T:
    own = np.take_along_axis(scores, np.maximum(column, 0)[:, None], axis=1)
    columns.append((scores > own).sum(axis=1) + 1)
  return np.stack(columns, axis=1).astype(np.int32)
