"""Histories in, lists of items out: a workdir as an object.

Whatever is made once is made here once: title index, item table, what all
prompts begin with, decoder, scorers of CF and of words and, by the first call
of a size, the compiled programs. No flag is read, no file written, no logging
set up.
"""

import dataclasses
import functools
import os
import pathlib
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from bigrec_jax import config as config_lib, errors, progress as reports
from bigrec_jax.cf import rows
from bigrec_jax.data.prepared import histories as histories_lib
from bigrec_jax.recommend import (
  cf_scorer,
  choice,
  decoder,
  explaining,
  filters,
  finished,
  judging,
  list_inputs,
  listing,
  loaded as loaded_lib,
  log_handlers,
  queries,
  remembered,
  shelf as shelf_lib,
  words_scorer,
)
from bigrec_jax.recommend.recommendations import (
  Provenance,
  Recommendation,
  Recommendations,
)
from bigrec_jax.results import chosen as chosen_lib
from bigrec_jax.workdir import paths as paths_lib

if TYPE_CHECKING:
  from bigrec_jax.rankers.combine import candidates


class Recommender:
  """A finished workdir, ready for histories.

  May be called from several threads: they take turns on the devices, and each
  gets what it would get alone.

  Attributes:
    provenance: what its lists are made from.
  """

  def __init__(
    self,
    loaded: loaded_lib.Loaded,
    adapter: pathlib.Path,
    items: np.ndarray,
    chosen: chosen_lib.Chosen,
    spare: int = 0,
  ):
    """Puts everything in its place; `load` finds it in a workdir.

    Args:
      loaded: configuration and workdir.
      adapter: the PEFT directory of the model that writes.
      items: [I, D] float32, embeddings of the prepared catalogue.
      chosen: what lists are made with.
      spare: rows of room for items that are added later (`Served`).

    Raises:
      UserError: a part is missing, or doesn't fit the others.
    """
    self._loaded = loaded
    self._shelf = shelf_lib.Shelf(loaded, items, spare)
    given = list_inputs.Given(loaded, adapter, self._shelf, chosen)
    self._list_of = listing.Listing(given)
    self._judge = judging.Judge(given, self._list_of)
    self._scorers = {
      model: cf_scorer.load(loaded, model) for model in self._list_of.models
    }
    self._words = words_scorer.load(loaded, self._list_of.words)
    self._decoder = decoder.Decoder(loaded, adapter, spare / len(items))
    self._ready_for_new_texts = loaded.config.generate.constrained
    self._lock = threading.Lock()
    self.provenance = Provenance(
      injection="none" if chosen.system else chosen.injection,
      gamma=None if chosen.system else chosen.report,
      cf_model=", ".join(self._scorers) or None,
      base=loaded.base_fingerprint,
      encoder=loaded.encoder_inputs.get("encoder"),
      adapter=loaded.adapter_fingerprint(adapter),
      catalogue=loaded.edition.fingerprint,
      system=chosen.system or None,
    )

  @property
  def loaded(self) -> loaded_lib.Loaded:
    """Configuration and workdir."""
    return self._loaded

  @classmethod
  def load(
    cls,
    workdir: str | os.PathLike,
    *,
    injection: str | None = None,
    gamma: float | None = None,
    mesh: config_lib.MeshConfig | None = None,
  ) -> Self:
    """Loads a workdir that was trained and embedded; makes and writes nothing.

    The configuration is the one that the workdir remembers. Where nothing was
    evaluated yet, nothing is injected, which a warning says.

    Args:
      workdir: what `--workdir` named.
      injection: none, popularity, cf, popularity+cf or auto, what valid likes
        best; None = the workdir's `recommend.injection`, auto by default.
      gamma: strength of a named injection; None = what valid chose for it.
      mesh: of the devices; None = all of them, split by users.

    Raises:
      UserError: something is missing, or of another base, adapter or
        catalogue; the message says what, and which mode makes it.
    """
    paths_lib.refuse_urls({"workdir": os.fspath(workdir)})
    paths = paths_lib.Paths(pathlib.Path(workdir))
    config = remembered.config(paths, injection, gamma, mesh)
    with log_handlers.left_alone():
      loaded = loaded_lib.Loaded(config, paths.root)
      choice.check(loaded)
      finished.check_base(loaded)
      adapter = finished.find_adapter(loaded)
      items = finished.load_embeddings(loaded)
      found = choice.choose(loaded, loaded.adapter_fingerprint(adapter))
      recommender = cls(loaded, adapter, items, found.chosen)
    if found.note:
      warnings.warn(found.note, stacklevel=2)
    return recommender

  def __call__(
    self,
    histories: Sequence[Sequence[str | int]],
    k: int = 10,
    *,
    exclude_history: bool = True,
    allow: Iterable[str | int] | None = None,
    deny: Iterable[str | int] | None = None,
    unknown: str = "error",
    explain: bool = False,
  ) -> list[Recommendations]:
    """Returns a list for each history.

    Args:
      histories: external ids or titles of each, oldest first; an id goes
        before a title that looks like one, a number is always an id. An empty
        history gets what the model writes for nobody in particular.
      k: items in a list; one of each title.
      exclude_history: never list what the history has.
      allow: external ids; nothing else is listed. Those that the catalogue
        lacks are no mistake; None = the whole catalogue.
      deny: external ids that are never listed.
      unknown: what becomes of an item that the catalogue lacks: error,
        nearest (the title that is most like it), text (the prompt names it as
        it is) or skip.
      explain: say why each item is where it is (`Recommendation.why`).

    Raises:
      UserError: an item isn't in the catalogue and `unknown` is error, or an
        argument is none of these, or nothing is left to list.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
      raise errors.UserError(f"k: {k!r} found, a number of at least 1 expected")
    if unknown not in histories_lib.UNKNOWN:
      raise errors.UserError(
        f"unknown: {unknown!r} found, one of {', '.join(histories_lib.UNKNOWN)}"
        " expected"
      )
    rows = histories_lib.from_lists(histories)
    found = histories_lib.find(rows, self._loaded.offered, unknown, "unknown")
    return self.recommend(
      found,
      k,
      exclude_history=exclude_history,
      shown=filters.of_ids(self._loaded.offered, allow, deny),
      explain=explain,
      seed=self._loaded.config.seed,
      progress=reports.NullProgress(),
    )

  def recommend(
    self,
    histories: histories_lib.Histories,
    k: int,
    *,
    exclude_history: bool,
    shown: filters.Filter,
    explain: bool,
    seed: int,
    progress: reports.Reports,
  ) -> list[Recommendations]:
    """Does what `__call__` does with histories that were looked up before.

    Args:
      histories: in the catalogue.
      k: items in a list.
      exclude_history: never list what the history has.
      shown: what of the catalogue may be listed.
      explain: say why each item is where it is.
      seed: of sampling, where `generate.sample` asks for it.
      progress: told of every history decoded.
    """
    if not len(histories):
      return []
    with self._lock, log_handlers.left_alone():
      written = self._decoder.continue_histories(
        histories.titles,
        histories.padded(self._loaded.config.data.max_history),
        seed,
        progress,
      )
      return self._lists(
        histories,
        written,
        k,
        exclude_history=exclude_history,
        shown=shown,
        explain=explain,
      )

  def _lists(
    self,
    histories: histories_lib.Histories,
    written: Sequence[Mapping[str, list]],
    k: int,
    *,
    exclude_history: bool,
    shown: filters.Filter,
    explain: bool = False,
    made: int = 0,
    width: int = 0,
  ) -> list[Recommendations]:
    """Returns the lists of histories for which the texts are written.

    Args:
      histories: in the catalogue.
      written: {"predict", "scores"} of each, see `Decoder`.
      k: items in a list.
      exclude_history: never list what the history has.
      shown: what of the catalogue may be listed.
      explain: tell why each item is there.
      made: lists are made at least so long, and cut.
      width: histories are padded to it; calls that share both share programs.
    """
    lists = []
    parts = self._parts(
      histories, written, max(k, made), exclude_history, shown, width
    )
    for part, users, own, wanted in parts:
      found = self._list_of(users, own, wanted)
      judged = self._judge(found.cut(k), users, own, wanted._replace(k=k))
      why = None
      if explain:
        items = histories[part].padded(self._loaded.config.data.max_history)
        why = self._explainer(users, own, items, judged.lists, judged.fallback)
      lists += [
        self._list(
          judged, n, written[user], histories, user, why[n] if why else None
        )
        for n, user in enumerate(range(part.start, part.stop))
      ]
    return lists

  def _parts(
    self,
    histories: histories_lib.Histories,
    written: Sequence[Mapping[str, list]],
    k: int,
    hide: bool,
    shown: filters.Filter,
    width: int,
  ) -> Iterator[
    "tuple[slice, candidates.Users, list_inputs.Texts, list_inputs.Wanted]"
  ]:
    """Yields some users at a time, with what their lists are made of."""
    texts = self._list_of.texts(
      written, lambda: self._prompts(histories.titles)
    )
    needed = self._list_of.embedded(texts)
    vectors = self._embed([text for own in needed for text in own])
    queries, log_probs = self._list_of.queries(texts, vectors)
    allowed = self._shelf.allowed(shown.allowed)
    # Histories up to the length that the model is told share a program.
    width = max(self._loaded.config.data.max_history, width)
    for part in histories.parts():
      items = histories[part].padded(width)
      hidden = items if hide else np.full_like(items, -1)
      logs = None if log_probs is None else log_probs[part]
      users = self._users(queries[part], logs, items)
      wanted = list_inputs.Wanted(hidden, k, allowed)
      yield part, users, texts.of(part), wanted

  @functools.cached_property
  def _explainer(self) -> explaining.Explainer:
    table = self._list_of.table
    return explaining.Explainer(self._loaded, table, self._shelf.popularity)

  def _prompts(self, titles: Sequence[Sequence[str]]) -> list_inputs.Prompts:
    tokens = self._decoder.prompt_tokens(titles)
    return list_inputs.Prompts(tokens, self._decoder.prefix_of(tokens))

  def _embed(self, texts: list[str]) -> np.ndarray:
    """Returns the embeddings of what was written [N, D]."""
    from bigrec_jax.models import embedding

    progress = reports.NullProgress()
    if not self._ready_for_new_texts and len(texts) <= embedding.FEW:
      # Titles of the catalogue need no model; the first other text should not
      # have to wait until its program is compiled.
      queries.embed_texts(self._loaded, [""], progress)
      self._ready_for_new_texts = True
    items = self._shelf.vectors
    return queries.embed_queries(self._loaded, texts, items, progress)

  def _users(
    self, queries: np.ndarray, log_probs: np.ndarray | None, items: np.ndarray
  ) -> "candidates.Users":
    """Returns what lists are made from, of histories [N, H]."""
    from bigrec_jax.rankers.combine import candidates

    def reader(score: cf_scorer.Scorer, known: int) -> candidates.ReadScores:
      return lambda part: self._shelf.scores(score, items[part], known)

    known = len(self._loaded.catalogue)
    scores = {name: reader(own, known) for name, own in self._scorers.items()}
    if self._words is not None:
      from bigrec_jax.rankers.combine import features

      scores[features.WORDS] = reader(self._words, len(self._words))
    history = rows.newest(items, self._loaded.config.data.max_history)
    return candidates.Users(queries, log_probs, scores, history, "recommend")

  def _list(
    self,
    judged: judging.Judged,
    n: int,
    written: Mapping[str, list],
    histories: histories_lib.Histories,
    user: int,
    why: list[dict[str, Any]] | None,
  ) -> Recommendations:
    """Returns the list of user n of those judged, `user` of all."""
    catalogue, found = self._loaded.offered, judged.lists
    cold = bool(judged.cold[n])
    provenance = dataclasses.replace(
      self.provenance,
      unknown=tuple(histories.unknown[user]),
      nearest=histories.nearest[user],
      cold=cold,
      fallback=judged.fallback[n],
    )
    ranks = None
    if found.cf_ranks is not None and not cold:
      ranks = found.cf_ranks[n].tolist()
    listed = [item for item in found.items[n].tolist() if item >= 0]
    items = tuple(
      Recommendation(
        external_id=catalogue.external_ids[item],
        title=catalogue.titles[item],
        score=float(found.scores[n, place]),
        distance=None
        if np.isnan(found.distances[n, place])
        else float(found.distances[n, place]),
        popularity=self._shelf.popularity[item].item(),
        cf_rank=None if ranks is None else ranks[place],
        provenance=provenance,
        attributes=own,
        why=None if why is None else why[place],
      )
      for place, (item, own) in enumerate(
        zip(listed, self._shelf.attributes(listed), strict=True)
      )
    )
    return Recommendations(
      items,
      tuple(written["predict"]),
      tuple(written["scores"]),
      provenance,
      judged.confidence[n],
    )
