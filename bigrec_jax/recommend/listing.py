"""What makes the lists: an injection, all beams, likelihood or a fused score.

Letters: N users, n some of them, B texts of a user, D width, I items.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from bigrec_jax import errors
from bigrec_jax.data.text import prompts
from bigrec_jax.recommend import (
  beam_logs,
  decoder,
  likely,
  loaded as loaded_lib,
)
from bigrec_jax.results import chosen as chosen_lib
from bigrec_jax.workdir import fields

if TYPE_CHECKING:
  from bigrec_jax.decoding import generate
  from bigrec_jax.rankers import bm25, grounder
  from bigrec_jax.rankers.combine import candidates

_FITTED = "chosen.json: fitted"


class Prompts(NamedTuple):
  """What was asked.

  Attributes:
    tokens: [N] of each user.
    prefix: what all begin with, read already; None = found when asked.
  """

  tokens: list[list[int]]
  prefix: "generate.Prefix | None"


_ReadPrompts = Callable[[], Prompts]


class Texts(NamedTuple):
  """What was written for N users, as far as lists are made of it.

  Attributes:
    texts: [N][<= B] cleaned titles, best first.
    log_probs: [N, B] float64, -inf where there is no text; None where only
      the first text of each counts.
    prompts: of these users; None where nobody reads them.
  """

  texts: list[list[str]]
  log_probs: np.ndarray | None
  prompts: Prompts | None

  def of(self, part: slice) -> "Texts":
    """Returns those of some users."""
    logs = None if self.log_probs is None else self.log_probs[part]
    asked = self.prompts
    if asked is not None:
      asked = Prompts(asked.tokens[part], asked.prefix)
    return Texts(self.texts[part], logs, asked)


class Given(NamedTuple):
  """What lists are made with.

  Attributes:
    loaded: configuration and workdir.
    adapter: the PEFT directory of the model that writes.
    items: [I, D] float32, embeddings of the catalogue.
    popularity: [I] counts.
    chosen: what valid chose, or the user.
  """

  loaded: loaded_lib.Loaded
  adapter: pathlib.Path
  items: np.ndarray
  popularity: np.ndarray
  chosen: chosen_lib.Chosen


class _Lists(Protocol):
  """Makes lists; attributes say what it is made of.

  Attributes:
    models: CF models whose scores are read.
    words: what the words of histories' titles are scored with; None = nobody
      reads these scores.
    all_texts: whether all texts of a user count.
    asks: whether the model is asked of titles, and so prompts are read.
  """

  models: Sequence[str]
  words: "bm25.Settings | None"
  all_texts: bool
  asks: bool

  def __call__(
    self,
    users: "candidates.Users",
    own: Texts,
    hidden: np.ndarray,
    k: int,
  ) -> "grounder.Recommended":
    """Returns the lists of n users; see `Listing.__call__`."""


class Listing:
  """What valid chose, ready for users.

  Attributes:
    models: the CF models whose scores are asked for.
    words: what the words of histories' titles are scored with, where that is
      asked for; else None.
  """

  def __init__(self, given: Given):
    """Puts the catalogue in its place.

    Raises:
      UserError: what valid taught a system isn't what it should be.
    """
    system = given.chosen.system
    make: type[_Injected | _AllBeams | _Likelihood | _Fused] = _Injected
    if system == chosen_lib.ALL_BEAMS:
      make = _AllBeams
    elif system in chosen_lib.LIKELIHOODS:
      make = _Likelihood
    elif system:
      make = _Fused
    self._loaded, self._lists = given.loaded, make(given)
    self.models, self.words = self._lists.models, self._lists.words

  def texts(
    self, written: Sequence[Mapping[str, Any]], read_prompts: _ReadPrompts
  ) -> Texts:
    """Returns what counts of what was written.

    Args:
      written: {"predict", "scores"} of each user.
      read_prompts: returns the prompts, where they count.
    """
    from bigrec_jax.rankers import beam_texts

    config = self._loaded.config.generate
    asked = read_prompts() if self._lists.asks else None
    cleaned = [
      [prompts.extract_title(text) for text in own["predict"]]
      for own in written
    ]
    if not (self._lists.all_texts or self._lists.asks):
      return Texts([own[:1] for own in cleaned], None, asked)
    lengths = None
    if config.length_norm_includes_prompt:
      tokens = (asked or read_prompts()).tokens
      lengths = decoder.norm_lengths(tokens, config)
    logs = beam_logs.of_rows(self._loaded, written, lengths)
    found = beam_texts.merged(cleaned, logs)
    return Texts(found.texts, found.logs, asked)

  def embedded(self, own: Texts) -> list[list[str]]:
    """Returns the texts of each user whose embeddings are needed."""
    if self._lists.all_texts:
      return own.texts
    return [texts[:1] for texts in own.texts]

  def queries(
    self, own: Texts, vectors: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns embeddings [N, B, D] and log-probabilities [N, B].

    Args:
      own: of N users.
      vectors: [T, D], of all texts of `embedded`, user by user.
    """
    if not self._lists.all_texts:
      return np.expand_dims(vectors, 1), None
    from bigrec_jax.rankers.combine import candidates

    assert own.log_probs is not None
    there = np.zeros(own.log_probs.shape, bool)
    for row, texts in zip(there, own.texts, strict=True):
      row[: len(texts)] = True
    queries = np.zeros((*there.shape, vectors.shape[-1]), np.float32)
    queries[there] = vectors
    beams = self._loaded.config.generate.num_beams
    most = max(beams, own.log_probs.shape[-1])
    return candidates.repeated(queries, own.log_probs, most)

  def __call__(
    self,
    users: "candidates.Users",
    own: Texts,
    hidden: np.ndarray,
    k: int,
  ) -> "grounder.Recommended":
    """Returns the lists of users.

    Args:
      users: n of them, with the scores of `models`, and of BM25 where it is
        asked for.
      own: what was written for them.
      hidden: [n, H] catalogue rows that aren't listed, padded with -1.
      k: items in a list.
    """
    return self._lists(users, own, hidden, k)


class _Injected:
  """The published form: distances, and what shrinks them."""

  all_texts = asks = False
  words = None

  def __init__(self, given: Given):
    from bigrec_jax.rankers import grounder

    loaded, chosen = given.loaded, given.chosen
    known = "popularity" in chosen.parts
    self.models = (chosen.cf_model,) if "cf" in chosen.parts else ()
    self._ground = grounder.Grounder(
      given.items,
      loaded.catalogue.groups,
      given.popularity if known else None,
      chosen.gamma,
      loaded.config.ground,
      loaded.mesh,
      most_users=loaded.config.ground.batch_size,
    )

  def __call__(
    self,
    users: "candidates.Users",
    own: Texts,
    hidden: np.ndarray,
    k: int,
  ) -> "grounder.Recommended":
    del own
    read = users.cf[self.models[0]] if self.models else None
    return self._ground(users.queries[:, 0], hidden, read, k)


class _AllBeams:
  """The mixture over all beams."""

  all_texts, asks, models, words = True, False, (), None

  def __init__(self, given: Given):
    from bigrec_jax.rankers import all_beams, all_beams_lists

    fitted = fields.Fields(given.chosen.fitted, _FITTED)
    names = all_beams.Settings._fields
    settings = (fitted.get(name, fields.number) for name in names)
    self._loaded = given.loaded
    self._lists = all_beams_lists.AllBeamsLists(
      all_beams.Settings(*settings),
      given.items,
      given.loaded.catalogue.groups,
      given.loaded.mesh,
    )

  def __call__(
    self,
    users: "candidates.Users",
    own: Texts,
    hidden: np.ndarray,
    k: int,
  ) -> "grounder.Recommended":
    assert users.log_probs is not None
    titles = np.full(users.log_probs.shape, -1, np.int32)
    found = likely.written(self._loaded, own.texts)
    titles[:, : found.shape[1]] = found
    return self._lists(users.queries, users.log_probs, titles, hidden, k)


def _models(given: Given) -> tuple[str, ...]:
  """Returns the CF models that a system was fitted with.

  Raises:
    UserError: another one is at hand.
  """
  chosen = given.chosen
  found = tuple(chosen_lib.models_of(chosen.fitted))
  if set(found) - {chosen.cf_model}:
    raise errors.UserError(
      f"chosen.json: {chosen.system} with the scores of {', '.join(found)}"
      f" found, of {chosen.cf_model or 'no CF model'} expected;"
      " --mode=ground_eval writes it again"
    )
  return found


def _judge(given: Given, most: int) -> likely.LikelyTitles:
  return likely.LikelyTitles(given.loaded, given.adapter, given.items, most)


def _ask(
  judge: likely.LikelyTitles,
  users: "candidates.Users",
  own: Texts,
  models: Sequence[str],
) -> likely.Likely:
  """Returns what the model makes of a few titles of users."""
  from bigrec_jax.rankers import dense

  assert own.prompts is not None
  cf = None
  for model in models:  # One at most.
    cf = dense.Dense(users.cf[model], judge.num_items)
  return judge(own.texts, users.queries[:, 0], *own.prompts, cf)


class _Likelihood:
  """A few titles in the order of the model's own probability of them."""

  all_texts, asks, words = False, True, None

  def __init__(self, given: Given):
    from bigrec_jax.rankers import reranked_lists

    fitted, loaded = fields.Fields(given.chosen.fitted, _FITTED), given.loaded
    self._weight = fitted.get("weight_without_history", fields.number)
    self._judge = _judge(given, fitted.get("candidates", fields.count))
    self.models = _models(given)
    self._lists = reranked_lists.RerankedLists(
      given.items, loaded.catalogue.groups, loaded.config.ground, loaded.mesh
    )

  def __call__(
    self,
    users: "candidates.Users",
    own: Texts,
    hidden: np.ndarray,
    k: int,
  ) -> "grounder.Recommended":
    found = _ask(self._judge, users, own, self.models)
    queries, scores = users.queries[:, 0], found.scores(self._weight)
    return self._lists(found.titles, scores, queries, hidden, k)


class _Fused:
  """A fused score of candidates from every part."""

  def __init__(self, given: Given):
    from bigrec_jax.rankers.combine import fused_lists, fusion

    loaded = given.loaded
    fused = fusion.Fusion.from_json(given.chosen.fitted, _FITTED)
    self.models, self.words = _models(given), fused.words
    self.all_texts, self.asks = fused.texts == "all", fused.likelihood > 0
    self._judge = _judge(given, fused.likelihood) if self.asks else None
    self._lists = fused_lists.FusedLists(
      fused,
      given.items,
      loaded.catalogue.groups,
      given.popularity,
      loaded.config.ground,
      loaded.mesh,
    )

  def __call__(
    self,
    users: "candidates.Users",
    own: Texts,
    hidden: np.ndarray,
    k: int,
  ) -> "grounder.Recommended":
    asked = None
    if self._judge is not None:
      asked = _ask(self._judge, users, own, self.models)
    return self._lists(users, hidden, k, asked)
