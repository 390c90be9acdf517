"""Changes of the catalogue while lists are made of it.

Whatever takes long (vectors of new titles, indexes, the trie, files) is done
beside the requests; then the engine shows the new edition between two steps.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging

from bigrec_jax import errors
from bigrec_jax.data.prepared import (
  catalogue as catalogue_lib,
  editions,
  new_items,
)
from bigrec_jax.serving import engine as engine_lib, refusals
from bigrec_jax.workdir import locks, paths as paths_lib

# New titles that are embedded before requests have another turn.
_TITLES = 256
# Tokens of a title; longer ones would need programs of their own. A token has
# a byte at least.
_MOST_TOKENS = 128


class Keeper:
  """The editions of a running server; one change at a time."""

  def __init__(self, engine: engine_lib.Engine, paths: paths_lib.Paths):
    """Takes over what the engine shows.

    Args:
      engine: whose catalogue it is.
      paths: of the workdir.
    """
    self._engine, self._paths = engine, paths
    self._lock = threading.Lock()
    self._store = editions.Store(paths, engine.recommender.prepared.fingerprint)

  def state(self) -> dict[str, Any]:
    """Returns what is offered now, in numbers."""
    own = self._engine.recommender
    edition = own.edition
    return {
      "version": edition.number,
      "items": len(own.offered[1]) - len(edition.withdrawn),
      "added": len(edition.titles),
      "withdrawn": len(edition.withdrawn),
      "room": own.room,
      "fingerprint": edition.fingerprint,
    }

  def add(self, items: Sequence[new_items.NewItem]) -> dict[str, Any]:
    """Adds items; returns once they are recommendable.

    Those that are there with the same title change nothing, and those that
    were withdrawn come back.

    Raises:
      RefusedError: an id has another title, a title is too long, there is no
        room, or what was chosen can't have new items.
    """
    start = time.monotonic()
    with self._lock, self._written():
      own, before = self._engine.recommender, self._engine.recommender.edition
      try:
        compared = new_items.compare(items, own.offered[1])
      except errors.UserError as error:
        raise refusals.RefusedError(
          409, str(error), str(error).split(":")[0]
        ) from None
      back = set(compared.known) & set(before.withdrawn)
      after = before
      if compared.new:
        self._check(compared.new)
        ids = [item.external_id for item in compared.new]
        titles = [item.title for item in compared.new]
        trie = self._trie(before.plus(ids, titles))
        vectors = self._vectors(titles)
        after = self._store.added(before, ids, titles, vectors, own.encoder)
      if back:
        kept = sorted(set(after.withdrawn) - back)
        after = self._store.with_withdrawn(after, kept)
      if after is not before:
        if back or not compared.new:
          trie = self._trie(after)
        self._show(after, trie)
    seconds = time.monotonic() - start
    logging.info("serve: %d items added in %.3f s", len(compared.new), seconds)
    return self.state() | {
      "new": len(compared.new),
      "known": len(compared.known) - len(back),
      "restored": len(back),
    }

  def withdraw(self, external_ids: Sequence[str]) -> dict[str, Any]:
    """Lists these items no more; they stay known in histories.

    Raises:
      RefusedError: an id isn't in the catalogue, or nothing would be left.
    """
    with self._lock, self._written():
      own = self._engine.recommender
      before, catalogue = own.edition, own.offered[1]
      for n, external_id in enumerate(external_ids):
        if catalogue.index_of_external_id(external_id) is None:
          field = f"external_ids[{n}]"
          raise refusals.bad(
            field,
            f"{field}: {external_id[:80]!r} found, an id of the catalogue"
            " expected",
          )
      gone = set(before.withdrawn) | set(external_ids)
      if len(gone) >= len(catalogue):
        raise refusals.bad(
          "external_ids", "external_ids: the last item, one at least must stay"
        )
      if gone != set(before.withdrawn):
        trie = self._trie(before.without(sorted(gone)))
        self._show(self._store.with_withdrawn(before, sorted(gone)), trie)
    return self.state()

  def reload(self) -> dict[str, Any]:
    """Shows the edition that counts on disk; another command may have made it.

    Raises:
      RefusedError: it is damaged, or larger than there is room for.
    """
    with self._lock, _conflicts():
      if (
        self._store.current_number() != self._engine.recommender.edition.number
      ):
        after = self._store.current()
        self._show(after, self._trie(after))
    return self.state()

  def roll_back(self) -> dict[str, Any]:
    """Shows the edition that the present one was made of.

    Raises:
      RefusedError: there is none.
    """
    with self._lock, self._written():
      before = self._engine.recommender.edition
      if before.number == 0:
        raise refusals.RefusedError(
          409, "version 0 found, the catalogue as prepared: nothing before it"
        )
      trie = self._trie(self._store.read(before.parent))
      self._show(self._store.rolled_back(before), trie)
    return self.state()

  @contextlib.contextmanager
  def _written(self) -> Iterator[None]:
    """Holds the editions on disk; they must be those that are shown."""
    with _conflicts(), locks.output(self._paths.editions, "serve"):
      found = self._store.current_number()
      shown = self._engine.recommender.edition.number
      if found != shown:
        raise refusals.RefusedError(
          409,
          f"version {found} found on disk, {shown} is shown; POST"
          " /v1/catalogue/reload first",
        )
      yield

  def _check(self, new: Sequence[new_items.NewItem]) -> None:
    """Raises RefusedError where there can't be more items, or not these."""
    own = self._engine.recommender
    if not own.grows:
      raise refusals.RefusedError(
        409,
        "items: the system that makes the lists, or config.generate.prior,"
        " knows the prepared items alone; --config.recommend.injection with a"
        " name (docs/serve.md), or --config.data.catalogue_add and a server"
        " that is started anew, expected",
      )
    if len(new) > own.room:
      raise refusals.RefusedError(
        507,
        f"items: {len(new):,} new ones found, room for {own.room:,}"
        " (config.serve.spare_items)",
        "items",
      )
    lengths = own.lengths([item.title for item in new])
    for item, length in zip(new, lengths, strict=True):
      if length > _MOST_TOKENS:
        raise refusals.bad(
          f"{item.place}.title",
          f"{item.place}.title: {length} tokens found, at most {_MOST_TOKENS}"
          " expected",
        )

  def _trie(self, edition: editions.Edition) -> Any:
    with _conflicts():
      own = self._engine.recommender
      return own.trie_of(edition, edition.offered(own.prepared))

  def _vectors(self, titles: Sequence[str]) -> np.ndarray:
    own, found = self._engine.recommender, []
    for start in range(0, len(titles), _TITLES):
      with self._engine.devices:
        found.append(own.embed(titles[start : start + _TITLES]))
    return np.concatenate(found)

  def _show(self, edition: editions.Edition, trie: Any) -> None:
    own = self._engine.recommender
    offered: catalogue_lib.Catalogue = edition.offered(own.prepared)
    with _conflicts():
      found = own.next(edition, offered, trie)
      self._engine.change(lambda: own.show(found), trie is not None)


@contextlib.contextmanager
def _conflicts() -> Iterator[None]:
  """Turns what the catalogue's files say into a refusal."""
  try:
    yield
  except errors.UserError as error:
    raise refusals.RefusedError(409, str(error)) from None
