"""How surely a list is right, and what orders it where the text can't.

Letters: n users, I items, D width, H hidden, k list size.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bigrec_jax.recommend import list_inputs, listing
from bigrec_jax.results import confidence

if TYPE_CHECKING:
  from bigrec_jax.rankers import grounder
  from bigrec_jax.rankers.combine import candidates

_CF, _POPULARITY = "cf", "popularity"


class Judged(NamedTuple):
  """What is thought of the lists of n users.

  Attributes:
    lists: as given, but those of a fallback.
    confidence: [n] the chance that the target is listed; None = nothing was
      evaluated for what lists are made with.
    fallback: [n] what orders the list in place of the text; None = nothing.
    cold: [n] bool, CF has a part in lists and knows nothing of the user.
  """

  lists: "grounder.Recommended"
  confidence: Sequence[float | None]
  fallback: Sequence[str | None]
  cold: np.ndarray


class Judge:
  """What valid taught of lists, ready for new ones."""

  def __init__(self, given: list_inputs.Given, lists: listing.Listing):
    """Reads what was chosen.

    Raises:
      UserError: what valid taught isn't what it should be.
    """
    chosen, self._loaded = given.chosen, given.loaded
    self._lists = lists
    self._falls_back = given.loaded.config.recommend.fallback
    self._shelf = given.shelf

    def read(name: str) -> confidence.Confidence | None:
      where = f"chosen.json: confidence.{name}"
      own = chosen.confidence.get(name)
      return (
        None if own is None else confidence.Confidence.from_json(own, where)
      )

    # A gamma that valid didn't choose has no ranks on valid.
    self._own = read(chosen.ranks) if chosen.confidence else None
    self._alone = {
      part: read(name) if chosen.confidence else None
      for part, name in confidence.ALONE.items()
    }

  def __call__(
    self,
    found: "grounder.Recommended",
    users: "candidates.Users",
    own: list_inputs.Texts,
    wanted: list_inputs.Wanted,
  ) -> Judged:
    """Returns the lists of n users with what is thought of them.

    Args:
      found: their lists.
      users: with the scores of the CF models in use.
      own: what was written for them.
      wanted: of the lists.
    """
    from bigrec_jax.rankers import grounder

    read = next((users.cf[name] for name in self._lists.models), None)
    empty = np.array([not texts[0].strip() for texts in own.texts])
    signs = self._signs(users, own, read)
    far = empty.copy()
    if self._own is not None:
      far |= self._own.is_far(signs)
    by: list[str | None] = [None] * len(empty)
    if self._falls_back:
      for n in np.flatnonzero(far).tolist():
        of_cf = None if read is None else read(slice(n, n + 1))
        by[n] = _CF if of_cf is not None and not signs.cold[n] else _POPULARITY
        alone = self._in_order_of(of_cf if by[n] == _CF else None)
        _put(found, n, alone, self._lists.table.groups, wanted)
        _measure(found, n, users.queries[n, 0], empty[n], self._lists)
        if of_cf is not None and found.cf_ranks is not None:
          own_items = found.items[n : n + 1]
          found.cf_ranks[n] = grounder.places(of_cf, own_items)[0]
    return Judged(found, self._chances(signs, by, wanted.k), by, signs.cold)

  def _signs(
    self,
    users: "candidates.Users",
    own: list_inputs.Texts,
    read: "candidates.ReadScores | None",
  ) -> confidence.Signs:
    from bigrec_jax.rankers import signs as signs_lib

    ground, catalogue = self._loaded.config.ground, self._loaded.offered
    exact = np.array([catalogue.names(texts[0]) for texts in own.texts])
    if self._own is None:  # Nobody asks how far the text is.
      nothing = np.zeros(len(exact), np.int32)
      place, cold = signs_lib.places(read, nothing, len(self._shelf))
      return confidence.Signs(
        exact, np.zeros(len(exact)), own.scores, place, cold
      )
    return signs_lib.of_users(
      self._lists.table,
      users.queries[:, 0],
      exact,
      own.scores,
      read,
      most_users=ground.batch_size,
      most_items=ground.block_items,
      name=users.name,
    )

  def _chances(
    self, signs: confidence.Signs, by: Sequence[str | None], k: int
  ) -> list[float | None]:
    kinds: list[tuple[str | None, confidence.Confidence | None]]
    kinds = [(None, self._own), *self._alone.items()]
    chances = {
      part: None if one is None else one(signs, k) for part, one in kinds
    }
    found: list[float | None] = []
    for n, part in enumerate(by):
      own = chances[part]
      found.append(None if own is None else float(own[n]))
    return found

  def _in_order_of(self, scores: np.ndarray | None) -> np.ndarray:
    """Returns scores [I] from 0 to 1: of CF [1, I], else of popularity."""
    own = self._shelf.popularity if scores is None else scores[0]
    own = own.astype(np.float64)
    span = own.max() - own.min()
    return (own - own.min()) / (span if span > 0 else 1.0)


def _put(
  found: "grounder.Recommended",
  n: int,
  scores: np.ndarray,
  groups: np.ndarray,
  wanted: list_inputs.Wanted,
) -> None:
  """Puts the first items by scores [I] in the list of user n, in place."""
  from bigrec_jax.rankers import shown

  order = np.argsort(-scores, kind="stable").astype(np.int32)
  kept = shown.of_candidates(order, groups, wanted.hidden[n], wanted.allowed)
  own = order[kept][: found.items.shape[1]]
  found.items[n], found.scores[n] = -1, 0.0
  found.items[n, : len(own)], found.scores[n, : len(own)] = own, scores[own]


def _measure(
  found: "grounder.Recommended",
  n: int,
  query: np.ndarray,
  empty: bool,
  lists: listing.Listing,
) -> None:
  """Puts the distances of user n's text to its items in place; NaN of none."""
  from bigrec_jax.rankers.distance import distance

  items = found.items[n]
  if empty:
    found.distances[n] = math.nan
    return
  vectors = lists.table.host[np.maximum(items, 0)]
  found.distances[n] = distance.exact(
    np.broadcast_to(query, vectors.shape), vectors
  )
