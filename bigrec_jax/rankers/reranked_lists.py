"""Lists where candidates come first: the order of `reranked`, as items.

Letters: N users, M candidates, H hidden, I items, k list size.
"""

import numpy as np
from jax.sharding import Mesh

from bigrec_jax.config import GroundConfig
from bigrec_jax.rankers import grounder, shown
from bigrec_jax.rankers.distance import distance


class RerankedLists:
  """A catalogue from which lists with given candidates are made.

  Attributes:
    table: the catalogue on the mesh.
  """

  def __init__(
    self,
    item_embeddings: np.ndarray,
    groups: np.ndarray,
    config: GroundConfig,
    mesh: Mesh,
  ):
    """Puts the catalogue on the mesh.

    Args:
      item_embeddings: [I, D] float32.
      groups: [I] int32, `Catalogue.groups`.
      config: section `ground`.
      mesh: over which catalogue rows are sharded.
    """
    self._host, self._groups = item_embeddings, groups
    self._ground = grounder.Grounder(
      item_embeddings,
      groups,
      None,
      0.0,
      config,
      mesh,
      most_users=config.batch_size,
    )
    self.table = self._ground.table

  def __call__(
    self,
    titles: np.ndarray,
    scores: np.ndarray,
    queries: np.ndarray,
    hidden: np.ndarray,
    k: int,
    allowed: np.ndarray | None = None,
  ) -> grounder.Recommended:
    """Returns the lists of N users, each title once.

    Behind the candidates come all others by distance. `scores` of the list are
    the softmax of the candidates' own, 0 of the others.

    Args:
      titles: [N, M] int32 title numbers, each once in a row, -1 = none.
      scores: [N, M], the highest first.
      queries: [N, D] float32, embeddings of the first beams.
      hidden: [N, H] catalogue rows that aren't listed, padded with -1.
      k: items in a list, at most I are.
      allowed: [I] bool, which rows may be listed, at least one; None = all.
    """
    standing = shown.first_rows(self._groups, allowed)
    k = min(k, len(self._host))
    items = np.full((len(titles), k), -1, np.int32)
    listed, distances = np.zeros(items.shape), np.zeros(items.shape)
    scores = np.where(titles >= 0, scores.astype(np.float64), -np.inf)
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    # Equal scores are in catalogue order: a title's number is its first row.
    order = np.lexsort((titles, -scores), axis=1)
    for n, own in enumerate(order):
      out = self._groups[hidden[n][hidden[n] >= 0]]
      kept = (titles[n, own] >= 0) & ~np.isin(titles[n, own], out)
      kept &= standing[titles[n, own]] >= 0
      own = own[kept][:k]
      rows = standing[titles[n, own]]
      items[n, : len(own)], listed[n, : len(own)] = rows, shares[n, own]
      query = np.broadcast_to(queries[n], (len(own), queries.shape[1]))
      distances[n, : len(own)] = distance.exact(query, self._host[rows])
    if (items < 0).any():
      without = np.concatenate([hidden, titles], axis=1)
      behind = self._ground(queries, without, None, k, allowed)
      for n, row in enumerate(items):
        have = int((row >= 0).sum())
        row[have:] = behind.items[n, : k - have]
        distances[n, have:] = behind.distances[n, : k - have]
    return grounder.Recommended(items, listed, distances, None)
