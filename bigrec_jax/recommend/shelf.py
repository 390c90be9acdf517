"""The rows that lists are made of: prepared items, added ones, spare room.

A server adds items while it runs, in programs that are compiled: so the tables
have more rows than there are items. A spare row holds the vector of a prepared
item and is never listed: the least and the greatest distance, and with them
every score, are those without it. Each spare row copies another item, so that
few stand beside one another.

Letters: I prepared items, A added, C rows, D width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bigrec_jax import errors
from bigrec_jax.cf import rows
from bigrec_jax.data.prepared import (
  attributes,
  catalogue as catalogue_lib,
  editions,
  popularity,
)
from bigrec_jax.recommend import cf_scorer, loaded as loaded_lib


class Shelf:
  """Catalogue rows with room; what is read while lists are made.

  What a server shows later changes all of these, so whoever reads them for
  longer than a list is told (`Served.show`).

  Attributes:
    vectors: [C, D] float32; without additions and room the given array itself.
    groups: [C] int32, `Catalogue.groups`; a spare row is its own.
    popularity: [C] counts; nobody has bought what was added, unless
      `ground.popularity` says so.
    real: [C] bool, which rows hold an item; None = all, for ever.
    listed: [C] bool, which may be listed; None = all.
  """

  def __init__(self, loaded: loaded_lib.Loaded, items: np.ndarray, spare: int):
    """Lays out the current edition.

    Args:
      loaded: configuration and workdir.
      items: [I, D] float32, embeddings of the prepared catalogue.
      spare: rows of room.

    Raises:
      UserError: an added item's vector is missing, or of another encoder.
    """
    self._loaded, self._prepared = loaded, items
    self._attributes = attributes.Attributes(loaded.paths.attributes)
    count = len(loaded.offered)
    self._used = count
    size = count + spare
    if size == len(items):
      self.vectors, self.groups = items, loaded.offered.groups
      self.real: np.ndarray | None = None
    else:
      self.vectors = np.empty((size, items.shape[1]), np.float32)
      self.vectors[: len(items)] = items
      self.groups = np.arange(size, dtype=np.int32)
      self.real = np.zeros(size, bool) if spare else None
    self.popularity = np.zeros(size, loaded.catalogue.popularity.dtype)
    self.listed: np.ndarray | None = None
    added = self.read_added(loaded.edition)
    self.fill(0, added, self.read_counts(loaded.offered))

  def __len__(self) -> int:
    return len(self.vectors)

  @property
  def room(self) -> int:
    """Items that can still be added."""
    return len(self) - len(self._loaded.offered)

  @property
  def weighed(self) -> np.ndarray:
    """[C] counts that popularity weighs by: what was added has the least.

    So its weight is 0, and those of the prepared items stay what they were.
    """
    counts = self.popularity.copy()
    size = len(self._prepared)
    given = self._loaded.config.ground.popularity
    known = self._used if given else size
    counts[known:] = counts[:known].min()
    return counts

  def check_room(self, edition: editions.Edition) -> None:
    """Raises UserError where an edition has more items than rows."""
    wanted = len(self._prepared) + len(edition.titles)
    if wanted > len(self):
      raise errors.UserError(
        f"catalogue: {wanted:,} items found, but room for {len(self):,};"
        " config.serve.spare_items larger, or a server that is started anew,"
        " expected"
      )

  def read_added(self, edition: editions.Edition) -> np.ndarray:
    """Returns the vectors [A, D] of what an edition added.

    Raises:
      UserError: one is missing, or of another encoder.
    """
    loaded = self._loaded
    return editions.Store(loaded.paths, loaded.catalogue.fingerprint).vectors(
      edition,
      loaded.encoder_fingerprint if edition.titles else "",
      self._prepared.shape[1],
    )

  def read_counts(self, offered: catalogue_lib.Catalogue) -> np.ndarray:
    """Returns how often each item [I + A] of an edition was taken.

    Raises:
      UserError: the file of `ground.popularity` has no counts of these.
    """
    return popularity.counts(self._loaded.config.ground.popularity, offered)

  def fill(self, same: int, added: np.ndarray, counts: np.ndarray) -> slice:
    """Lays out `Loaded.edition`, in place.

    Args:
      same: how many of its added items are what lay there before.
      added: [A, D] float32, from `read_added`.
      counts: [I + A], from `read_counts`.

    Returns:
      The rows that are others now.
    """
    loaded, first = self._loaded, len(self._prepared)
    offered, before = loaded.offered, self._used
    self._used = used = len(offered)
    start = min(first + same, used)
    if len(self) > first:
      self._fill_rows(start, max(used, before), added)
    self.popularity = np.zeros(len(self), counts.dtype)
    self.popularity[:used] = counts
    self.listed = self._listed(loaded.edition.listed(offered))
    return slice(start, max(used, before))

  def _fill_rows(self, start: int, stop: int, added: np.ndarray) -> None:
    loaded, first, used = self._loaded, len(self._prepared), self._used
    self.vectors[start:used] = added[start - first :]
    self.groups[:used] = loaded.offered.groups
    if self.real is not None:
      if not self.real.any():  # The first time.
        stop = len(self)
      spare = np.arange(used, stop)
      self.vectors[used:stop] = self._prepared[spare % first]
      self.groups[used:stop] = spare
      self.real[:used], self.real[used:] = True, False

  def _listed(self, offered: np.ndarray | None) -> np.ndarray | None:
    if self.real is None:
      return offered
    result = self.real.copy()
    if offered is not None:
      result[: len(offered)] &= offered
    return result

  def allowed(self, own: np.ndarray | None) -> np.ndarray | None:
    """Returns which rows [C] a call may list.

    Args:
      own: [I + A] bool of the call's filter; None = it has none.

    Raises:
      UserError: none is left.
    """
    if own is None:
      return self.listed
    if self.listed is None:
      return own
    result = self.listed.copy()
    result[: len(own)] &= own
    result[len(own) :] = False
    if not result.any():
      raise errors.UserError(
        "allow, deny: no item is left that isn't withdrawn, at least one"
        " expected"
      )
    return result

  def scores(
    self, score: cf_scorer.Scorer, items: np.ndarray, known: int
  ) -> np.ndarray:
    """Returns scores [n, C] of histories [n, H].

    Args:
      score: of the first rows alone.
      items: catalogue rows; a history counts by those that are known.
      known: how many rows the scorer knows: CF what was prepared, words what
        is offered. All others have the least of their row.
    """
    if len(self) == known:
      return score(items)
    found = score(rows.only_below(items, known))
    least = found.min(axis=1, keepdims=True)
    more = np.repeat(least, len(self) - known, axis=1)
    return np.concatenate([found, more], axis=1)

  def attributes(self, items: Sequence[int]) -> list[dict[str, Any]]:
    """Returns the attributes of rows; what was added later has none."""
    size = len(self._loaded.catalogue)
    own = iter(self._attributes.of(i for i in items if i < size))
    return [next(own) if i < size else {} for i in items]
