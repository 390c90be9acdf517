"""A recommender in parts, for whoever decodes and lists at different times."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bigrec_jax import errors, progress as reports
from bigrec_jax.data.prepared import (
  catalogue as catalogue_lib,
  editions,
  histories as histories_lib,
)
from bigrec_jax.data.text import prompts
from bigrec_jax.recommend import (
  filters,
  log_handlers,
  queries,
  recommendations,
  recommender,
  words_scorer,
)
from bigrec_jax.serving import refusals

if TYPE_CHECKING:
  import jax

  from bigrec_jax import config as config_lib
  from bigrec_jax.decoding import constraints, running as slots_lib


# Number and items of an edition to histories in it, and what may be listed.
Now = Callable[
  [int, catalogue_lib.Catalogue],
  tuple[histories_lib.Histories, filters.Filter],
]


class Next(NamedTuple):
  """An edition with all that lists of it are made of.

  Attributes:
    edition: the edition.
    offered: its items.
    trie: the titles that may be written; None = any text.
    words: what scores the words of titles; None = nobody reads it.
    added: [A, D] float32, vectors of what was added.
    counts: [I + A] how often each item was taken.
  """

  edition: editions.Edition
  offered: catalogue_lib.Catalogue
  trie: "constraints.Trie | None"
  words: words_scorer.Words | None
  added: np.ndarray
  counts: np.ndarray


class Served(recommender.Recommender):
  """A `Recommender` whose catalogue can change, and whose steps are apart.

  Attributes:
    offered: number of the edition, and its items; read both at once.
  """

  def __init__(self, *arguments: Any, **options: Any):
    super().__init__(*arguments, **options)
    loaded = self._loaded
    self.offered = loaded.edition.number, loaded.offered

  @property
  def config(self) -> "config_lib.Config":
    """The whole configuration."""
    return self._loaded.config

  @property
  def mesh(self) -> "jax.sharding.Mesh":
    """Of all programs."""
    return self._loaded.mesh

  @property
  def history(self) -> int:
    """Items that a prompt names at most."""
    return self._loaded.config.data.max_history

  @property
  def room(self) -> int:
    """Items that can still be added."""
    return self._shelf.room if self.grows else 0

  @property
  def trie(self) -> "constraints.Trie | None":
    """The titles that may be written; None = any text."""
    return self._decoder.trie

  def running(self, slots: int, buckets: Sequence[int]) -> "slots_lib.Running":
    """Returns slots that prompts pass through; see `Decoder.running`."""
    return self._decoder.running(slots, buckets)

  def prompt(
    self, name: int, titles: Sequence[str], items: np.ndarray
  ) -> "slots_lib.Prompt | None":
    """Returns the prompt of a history; see `Decoder.prompt`."""
    return self._decoder.prompt(name, titles, items)

  def texts(
    self, beams: Sequence[Sequence[int]], scores: np.ndarray
  ) -> dict[str, list]:
    """Returns what was written, as text; see `Decoder.texts`."""
    return self._decoder.texts(beams, scores)

  def write(self, histories: histories_lib.Histories) -> dict[str, list]:
    """Returns what is written for one history, outside the slots."""
    (found,) = self._decoder.continue_histories(
      histories.titles,
      histories.padded(self.history),
      self.config.seed,
      reports.NullProgress(),
    )
    return found

  def trie_of(
    self, edition: editions.Edition, offered: catalogue_lib.Catalogue
  ) -> "constraints.Trie | None":
    """Returns the trie of an edition; see `Decoder.trie_of`."""
    return self._decoder.trie_of(edition, offered)

  @property
  def prepared(self) -> catalogue_lib.Catalogue:
    """The catalogue without what was added later."""
    return self._loaded.catalogue

  @property
  def edition(self) -> editions.Edition:
    """What is offered."""
    return self._loaded.edition

  @property
  def encoder(self) -> str:
    """Fingerprint of what embeds titles."""
    return self._loaded.encoder_fingerprint

  def lengths(self, titles: Sequence[str]) -> list[int]:
    """Returns the tokens of each title, by the base's tokenizer."""
    encoded = self._loaded.tokenizer.encode_data(
      [prompts.clean_title(title) for title in titles]
    )
    return list(map(len, encoded))

  def next(
    self,
    edition: editions.Edition,
    offered: catalogue_lib.Catalogue,
    trie: "constraints.Trie | None",
  ) -> "Next":
    """Returns what `show` takes; nobody has to wait for that.

    Args:
      edition: with no more items than there is room for.
      offered: its items.
      trie: of its titles, where these alone may be written.

    Raises:
      UserError: there is no room, or a vector or all counts are missing.
    """
    self._shelf.check_room(edition)
    return Next(
      edition,
      offered,
      trie,
      None if self._words is None else self._words.of(offered.titles),
      self._shelf.read_added(edition),
      self._shelf.read_counts(offered),
    )

  @property
  def grows(self) -> bool:
    """Whether what was chosen can list items that are added later."""
    return self._list_of.grows and not self.config.generate.has_prior

  def show(self, now: "Next") -> None:
    """Lists another edition of the catalogue from now on.

    Raises:
      UserError: a vector isn't finite.
    """
    edition, offered = now.edition, now.offered
    before = self._loaded.edition
    pairs = zip(
      zip(before.external_ids, before.titles, strict=True),
      zip(edition.external_ids, edition.titles, strict=True),
      strict=False,
    )
    same = sum(1 for _ in itertools.takewhile(lambda p: p[0] == p[1], pairs))
    with self._lock:
      self._loaded.offer(edition, offered)
      changed = self._shelf.fill(same, now.added, now.counts)
      if self._list_of.grows:  # Of others nothing but what is hidden changes.
        self._list_of.rewritten(changed)
      self._words, self._decoder.trie = now.words, now.trie
      self.__dict__.pop("_explainer", None)  # It was of the rows before.
      self.provenance = dataclasses.replace(
        self.provenance, catalogue=edition.fingerprint
      )
      self.offered = edition.number, offered

  def check(self, shown: filters.Filter) -> None:
    """Raises RefusedError where all that may be listed is withdrawn."""
    try:
      self._shelf.allowed(shown.allowed)
    except errors.UserError as error:
      raise refusals.bad("allow", str(error)) from None

  def lists(
    self,
    now: Now,
    written: Sequence[Mapping[str, list]],
    k: int,
    *,
    exclude_history: bool,
    made: int,
    width: int,
  ) -> list[recommendations.Recommendations]:
    """Returns the lists of histories for which the texts are written.

    Args:
      now: of an edition's number and items to histories in it, and what may
        be listed; called when no other edition can come any more.
      written: see `Recommender._lists`, as the others.
      k: items in a list.
      exclude_history: never list what the history has.
      made: lists are made at least so long.
      width: items to which histories are padded.
    """
    with self._lock, log_handlers.left_alone():
      histories, shown = now(*self.offered)
      return self._lists(
        histories,
        written,
        k,
        exclude_history=exclude_history,
        shown=shown,
        made=made,
        width=width,
      )

  def embed(self, titles: Sequence[str]) -> np.ndarray:
    """Returns embeddings [N, D] float32 of titles that are to be added."""
    cleaned = [prompts.clean_title(title) for title in titles]
    return queries.embed_queries(
      self._loaded, cleaned, self._shelf.vectors, reports.NullProgress()
    )

  def embed_anew(self, texts: Sequence[str]) -> np.ndarray:
    """Returns embeddings [N, D] float32, whatever the catalogue has."""
    return queries.embed_texts(
      self._loaded, list(texts), reports.NullProgress()
    )

  def warm_up(self, users: int, k: int, width: int) -> None:
    """Compiles what lists of so many users take.

    Args:
      users: of a call.
      k: items in a list.
      width: items of a history.
    """
    rng = np.random.default_rng(0)
    catalogue = self._loaded.offered
    beams = self._loaded.config.generate.num_beams
    items = rng.integers(0, len(catalogue), (users, width)).tolist()
    histories = histories_lib.Histories(
      histories_lib.from_lists(
        [[catalogue.external_ids[row] for row in own] for own in items]
      ),
      [[catalogue.titles[row] for row in own[: self.history]] for own in items],
      items,
      [[] for _ in items],
      [{} for _ in items],
    )
    written: dict[str, list] = {
      "predict": [
        f'"{catalogue.titles[n % len(catalogue)]}"' for n in range(beams)
      ],
      "scores": [-1.0 - n for n in range(beams)],
    }
    texts = [written] * users
    self.lists(
      lambda *_: (histories, filters.EVERYTHING),
      texts,
      k,
      exclude_history=True,
      made=k,
      width=width,
    )
    with self._lock:
      for _, *own in self._parts(
        histories, texts, k, True, filters.EVERYTHING, width
      ):
        arguments: Any = own
        self._list_of.warm_up(*arguments)

  def warm_up_growth(self) -> None:
    """Compiles what adding items takes."""
    if self._shelf.real is not None and self._list_of.grows:
      size = len(self._shelf)
      self._list_of.rewritten(slice(size - 1, size))
