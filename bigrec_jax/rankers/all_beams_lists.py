"""Lists by the mixture over all beams: the order of `all_beams`, as items.

Letters: n users, W beams, H hidden, I items, k list size.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigrec_jax.devices import blocks
from bigrec_jax.rankers import all_beams, engine, grounder, protocol, shown
from bigrec_jax.rankers.distance import distance

_SLACK = 32  # Items beyond k, for titles that repeat.
_FEW = 64  # Users of a call whose blocks have its size, up to a power of two.
_MOST_USERS = 256


class AllBeamsLists:
  """A catalogue from which lists by all beams are made."""

  def __init__(
    self,
    settings: all_beams.Settings,
    item_embeddings: np.ndarray,
    groups: np.ndarray,
    mesh: Mesh,
  ):
    """Keeps the parts.

    Args:
      settings: what valid chose.
      item_embeddings: [I, D] float32.
      groups: [I] int32, `Catalogue.groups`.
      mesh: all its devices share the items.
    """
    self._settings, self._host = settings, item_embeddings
    self._groups = np.asarray(groups, np.int32)
    self._table = all_beams.table(item_embeddings, groups, mesh)

  def __call__(
    self,
    queries: np.ndarray,
    log_probs: np.ndarray,
    titles: np.ndarray,
    hidden: np.ndarray,
    k: int,
    allowed: np.ndarray | None = None,
  ) -> grounder.Recommended:
    """Returns the lists of N users, each title once.

    A score is the item's share in the mixture over that of the user's best
    item: 1 of the first item, be it listed or not.

    Args:
      queries: [N, W, D] float32 embeddings of the beams.
      log_probs: [N, W], -inf where there is no beam.
      titles: [N, W] int32, the title's number where a beam is one, else -1.
      hidden: [N, H] catalogue rows that aren't listed, padded with -1.
      k: items in a list, at most I are.
      allowed: [I] bool, which rows may be listed, at least one; None = all.
    """
    rows, total = _MOST_USERS, len(self._host)
    if len(queries) <= _FEW:
      rows = 1 << (len(queries) - 1).bit_length()
    found = []
    for part in blocks.user_blocks(len(queries), rows):
      own = (
        blocks.pad_rows(array[part], rows)
        for array in (queries, log_probs, titles)
      )
      found.append(
        self._block(*own, hidden=hidden[part], k=min(k, total), allowed=allowed)
      )
    items, scores, distances = (
      np.concatenate(x) for x in zip(*found, strict=True)
    )
    return grounder.Recommended(items, scores, distances, None)

  def _block(
    self,
    queries: np.ndarray,
    log_probs: np.ndarray,
    titles: np.ndarray,
    *,
    hidden: np.ndarray,
    k: int,
    allowed: np.ndarray | None,
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns items, scores and distances [n, k] of the users of `hidden`."""
    table, temperature = self._table, self._settings.item_temperature
    beams = all_beams.measure(table, queries, titles, log_probs, (temperature,))
    everything = all_beams.AllBeams(table, beams, self._settings)
    ranker: protocol.Ranker = everything
    total = most = len(self._host)
    if allowed is not None:
      ranker, most = _Allowed(everything, allowed), int(allowed.sum())
    # A power of two, so that few lengths of histories mean few programs.
    spare = 1 << max(0, hidden.shape[1] - 1).bit_length()
    count = k + spare + _SLACK
    while True:
      count = min(count, most)
      scores, rows = engine.lists(
        ranker,
        len(queries),
        total,
        table.mesh,
        k=count,
        most_users=len(queries),
      )
      kept = [
        np.flatnonzero(shown.of_candidates(own, self._groups, out, allowed))[:k]
        for own, out in zip(rows, hidden, strict=False)  # Less the padding.
      ]
      if count == most or min(map(len, kept)) == k:
        break
      count *= 4  # Many rows share titles.
    best = scores[:, 0]
    if allowed is not None:
      best = engine.lists(
        everything,
        len(queries),
        total,
        table.mesh,
        k=1,
        most_users=len(queries),
      )[0][:, 0]
    items = np.full((len(kept), k), -1, np.int32)
    listed, distances = np.zeros(items.shape), np.zeros(items.shape)
    for n, places in enumerate(kept):
      own = rows[n, places]
      items[n, : len(own)] = own
      shares = scores[n, places].astype(np.float64) - best[n]
      listed[n, : len(own)] = np.exp(shares)
      query = np.broadcast_to(queries[n, 0], (len(own), queries.shape[2]))
      distances[n, : len(own)] = distance.exact(query, self._host[own])
    return items, listed, distances


class _Allowed:
  """A ranker of which some items come last, and aren't listed."""

  def __init__(self, ranker: all_beams.AllBeams, allowed: np.ndarray):
    """Keeps the ranker and which rows may be listed, [I] bool."""
    self._ranker, self._allowed = ranker, allowed
    self.width = ranker.width

  @staticmethod
  def score(queries: all_beams.Queries, items: Any) -> jax.Array:
    """Scores a block as the ranker does; NaN where an item isn't allowed."""
    own, allowed = items
    return jnp.where(allowed[None], all_beams.mixture(queries, own), jnp.nan)

  def queries(self, users: slice) -> all_beams.Queries:
    """Returns the beams of a block of users."""
    return self._ranker.queries(users)

  def items(self) -> tuple[Any, np.ndarray]:
    """Returns the catalogue and which rows of it may be listed."""
    return self._ranker.items(), self._allowed
