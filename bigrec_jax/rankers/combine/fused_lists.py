"""Lists by a fused score: the order that ranks are counted in, as items.

Letters: n users, S slots, B texts, H hidden, I items, k list size.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from bigrec_jax.config import GroundConfig
from bigrec_jax.devices import blocks
from bigrec_jax.rankers import grounder, shown
from bigrec_jax.rankers.combine import (
  candidates,
  features,
  fused_ranks,
  fusion,
  injection,
)
from bigrec_jax.rankers.distance import distance, lists, streamed

_MOST_USERS = 256  # Of a block.
_MOST_CF_SCORES = 1 << 26


class _Out(NamedTuple):
  """What is left out of the lists of n users.

  Attributes:
    hidden: [n, H] catalogue rows, padded with -1.
    allowed: [I] bool; None = all rows are.
  """

  hidden: np.ndarray
  allowed: np.ndarray | None


class FusedLists:
  """A catalogue on the mesh, from which lists by a fused score are made.

  Attributes:
    table: the catalogue.
    models: whose scores are read.
  """

  def __init__(
    self,
    fused: fusion.Fusion,
    item_embeddings: np.ndarray,
    groups: np.ndarray,
    popularity: np.ndarray,
    config: GroundConfig,
    mesh: Mesh,
    real: np.ndarray | None = None,
  ):
    """Puts the catalogue on the mesh.

    Args:
      fused: the score.
      item_embeddings: [I, D] float32.
      groups: [I] int32, `Catalogue.groups`: rows of one title.
      popularity: [I] counts.
      config: section `ground`.
      mesh: over which catalogue rows are sharded.
      real: [I] bool, see `streamed.Streamed`.
    """
    own = features.TEXT, features.POPULARITY
    self.models = tuple(part for part in fused.parts if part not in own)
    self._counts = features.POPULARITY in fused.parts
    # Whose places are shown: the first of CF.
    of_cf = [model for model in self.models if model != features.WORDS]
    self._shown = of_cf[0] if of_cf else None
    self._fused, self._config = fused, config
    self.table = streamed.streamed(item_embeddings, groups, mesh, real)
    self._favour(popularity)

  def rewritten(self, rows: slice, popularity: np.ndarray) -> None:
    """Takes other vectors of some rows from the array that was given.

    Args:
      rows: that were changed.
      popularity: [I] counts from now on.
    """
    self.table = self._gather.table = streamed.rewritten(self.table, rows)
    known = self._items.popularity
    if known is not None and not np.array_equal(popularity, known):
      self._favour(popularity)

  def _favour(self, popularity: np.ndarray) -> None:
    """Has counts [I] take part in lists, where they do."""
    known = popularity if self._counts else None
    self._items = features.Items(known, self.models)
    self._gather = candidates.Gatherer(
      self.table,
      np.zeros(len(popularity)) if known is None else known,
      block_items=self._config.block_items,
    )

  def __call__(
    self,
    users: candidates.Users,
    hidden: np.ndarray,
    k: int,
    asked: Sequence[np.ndarray] | None = None,
    allowed: np.ndarray | None = None,
  ) -> grounder.Recommended:
    """Returns the lists of N users, each title once.

    `scores` are the probabilities of a calibrated fusion, or the sums of
    reciprocal places; 0 of an item that is no candidate.

    Args:
      users: with scores of all that `models` names.
      hidden: [N, H] catalogue rows that aren't listed, padded with -1.
      k: items in a list, at most I are.
      asked: titles, and log-probabilities after the history and alone, [N, L]
        each, see `features.likelihood`; None = the model wasn't asked.
      allowed: [I] bool, which rows may be listed, at least one; None = all.
        The list is that of all with the others left out.
    """
    total = len(self.table.host)
    rows = min(_MOST_USERS, self._config.batch_size)
    if self.models:
      most_scores = _MOST_CF_SCORES // len(self.models)
      rows = max(1, min(rows, most_scores // total))
    found = []
    for part in blocks.user_blocks(len(users), rows):
      own = users.of(part)
      cf = {
        name: np.asarray(own.cf[name](slice(0, len(own))), np.float32)
        for name in self.models
      }
      likely = None if asked is None else [array[part] for array in asked]
      out = _Out(hidden[part], allowed)
      found.append(self._block(own, cf, out, min(k, total), likely))
    items, scores, distances, places = (
      np.concatenate(x) for x in zip(*found, strict=True)
    )
    return grounder.Recommended(
      items, scores, distances, places if self._shown else None
    )

  def _block(
    self,
    users: candidates.Users,
    cf: Mapping[str, np.ndarray],
    out: "_Out",
    k: int,
    asked: Sequence[np.ndarray] | None,
  ) -> tuple[np.ndarray, ...]:
    """Returns items, scores, distances and CF places [n, k]."""
    read = {name: scores.__getitem__ for name, scores in cf.items()}
    users = candidates.Users(
      users.queries, users.log_probs, read, users.history, users.name
    )
    found = self._gather(users)
    likely = None
    if asked is not None:
      likely = features.likelihood(found.items, self.table.groups, *asked)
    known = features.of(found, users, self._items, likely)
    scores = self._fused.scores(found, known, self._items)
    costs = features.costs(self._fused.base, found, self._items)
    slots = fused_ranks.order(scores, costs, found.items)
    values = _shown(scores, found.real, self._fused.name)
    items = np.full((len(users), k), -1, np.int32)
    listed = np.zeros((len(users), k))
    distances = np.zeros((len(users), k))
    for n, of_user in enumerate(slots):
      kept = self._new_titles(found.items[n, of_user], out.hidden[n], out)[:k]
      chosen = of_user[kept]
      items[n, : len(kept)] = found.items[n, chosen]
      listed[n, : len(kept)] = values[n, chosen]
      distances[n, : len(kept)] = found.distances[n, chosen, 0]
    short = (items < 0).any(axis=1)
    if short.any() and found.real.sum(axis=1).min() < len(self.table.host):
      self._fill(users, cf, out, items, distances)
    places = np.zeros_like(items)
    if self._shown is not None:
      places = grounder.places(cf[self._shown], items)
    return items, listed, distances, places

  def _new_titles(
    self, items: np.ndarray, hidden: np.ndarray, out: "_Out"
  ) -> np.ndarray:
    """Returns which places of items [S] are listed."""
    kept = shown.of_candidates(items, self.table.groups, hidden, out.allowed)
    return np.flatnonzero(kept)

  def _fill(
    self,
    users: candidates.Users,
    cf: Mapping[str, np.ndarray],
    out: "_Out",
    items: np.ndarray,
    distances: np.ndarray,
  ) -> None:
    """Puts items that are no candidates behind those that are, in place."""
    host, base = self.table.host, self._fused.base
    without = np.concatenate([out.hidden, items], axis=1)
    if base == features.TEXT:
      behind = lists.new_titles(
        self.table,
        lists.Users(
          users.queries[:, 0],
          len(users),
          injection.Injection(None, None),
          injection.Gammas.of(0.0),
          0,
          users.name,
        ),
        items.shape[1],
        without,
        self._config.block_items,
        out.allowed,
      ).items
    else:
      behind = np.empty((len(users), len(host)), np.int32)
      for n in range(len(users)):
        counts = self._items.popularity
        by = counts if base == features.POPULARITY else cf[base][n]
        assert by is not None, base
        behind[n] = np.argsort(-by, kind="stable")
    for n, row in enumerate(items):
      have = int((row >= 0).sum())
      kept = self._new_titles(behind[n], without[n], out)[: len(row) - have]
      row[have : have + len(kept)] = own = behind[n][kept]
      query = np.broadcast_to(users.queries[n, 0], (len(own), host.shape[1]))
      distances[n, have : have + len(own)] = distance.exact(query, host[own])


def _shown(scores: np.ndarray, real: np.ndarray, name: str) -> np.ndarray:
  """Returns scores as probabilities, where they are their logarithms."""
  if name == fusion.RECIPROCAL:
    return scores
  top = np.where(real, scores, -np.inf).max(axis=1, keepdims=True)
  own = np.where(real, np.exp(scores - top), 0.0)
  return own / own.sum(axis=1, keepdims=True)
