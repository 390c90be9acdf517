"""What makes the lists: an injection, all beams, likelihood or a fused score.

Letters: N users, n some of them, B texts of a user, D width, I items.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bigrec_jax import errors
from bigrec_jax.data.text import prompts
from bigrec_jax.recommend import (
  beam_logs,
  decoder,
  likely,
)
from bigrec_jax.recommend.list_inputs import (
  Given,
  ReadPrompts,
  Texts,
  Wanted,
)
from bigrec_jax.results import chosen as chosen_lib
from bigrec_jax.workdir import fields

if TYPE_CHECKING:
  from bigrec_jax.rankers import bm25, grounder
  from bigrec_jax.rankers.combine import candidates
  from bigrec_jax.rankers.distance import streamed

_FITTED = "chosen.json: fitted"


class _Lists(Protocol):
  """Makes lists; attributes say what it is made of.

  Attributes:
    models: CF models whose scores are read.
    words: what the words of histories' titles are scored with; None = nobody
      reads these scores.
    all_texts: whether all texts of a user count.
    asks: whether the model is asked of titles, and so prompts are read.
    table: the catalogue on the mesh; None = there is none of this kind.
  """

  table: "streamed.Streamed | None"
  models: Sequence[str]
  words: "bm25.Settings | None"
  all_texts: bool
  asks: bool

  def __call__(
    self,
    users: "candidates.Users",
    own: Texts,
    wanted: Wanted,
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
      UserError: what valid taught a system isn't what it should be, or it
        reads log-probabilities where beams are written with a prior.
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
    generate = given.loaded.config.generate
    if self._lists.all_texts and generate.has_prior:
      raise errors.UserError(
        f"config.generate.prior: {generate.prior} found, whose scores {system}"
        " can't read as the model's own log-probabilities;"
        " generate.prior_weight=0, or a named recommend.injection, expected"
      )
    self._given = given

  @functools.cached_property
  def table(self) -> "streamed.Streamed":
    """The catalogue on the mesh, as what makes the lists has it."""
    from bigrec_jax.rankers.distance import streamed

    if self._lists.table is not None:
      return self._lists.table
    catalogue = self._loaded.catalogue
    return streamed.streamed(
      self._given.items, catalogue.groups, self._loaded.mesh
    )

  def texts(
    self, written: Sequence[Mapping[str, Any]], read_prompts: ReadPrompts
  ) -> Texts:
    """Returns what counts of what was written.

    Args:
      written: {"predict", "scores"} of each user.
      read_prompts: returns the prompts, where they count.
    """
    from bigrec_jax.rankers import beam_texts

    config = self._loaded.config.generate
    asked = read_prompts() if self._lists.asks else None
    if self._loaded.config.recommend.fallback:
      written = [_with_letters(own) for own in written]
    scores = np.array([own["scores"][0] for own in written], np.float64)
    cleaned = [
      [prompts.extract_title(text) for text in own["predict"]]
      for own in written
    ]
    if not (self._lists.all_texts or self._lists.asks):
      return Texts([own[:1] for own in cleaned], scores, None, asked)
    lengths = None
    if config.length_norm_includes_prompt:
      tokens = (asked or read_prompts()).tokens
      lengths = decoder.norm_lengths(tokens, config)
    logs = beam_logs.of_rows(self._loaded, written, lengths)
    found = beam_texts.merged(cleaned, logs)
    return Texts(found.texts, scores, found.logs, asked)

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
    wanted: Wanted,
  ) -> "grounder.Recommended":
    """Returns the lists of users.

    Args:
      users: n of them, with the scores of `models`, and of BM25 where it is
        asked for.
      own: what was written for them.
      wanted: of these users.
    """
    return self._lists(users, own, wanted)


def _with_letters(written: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the texts of a user without those that say nothing.

  An empty text is the name of no item. Where all are, the first stays.
  """
  kept = [
    n
    for n, text in enumerate(written["predict"])
    if prompts.extract_title(text).strip()
  ]
  return {
    key: [written[key][n] for n in kept or [0]] for key in ("predict", "scores")
  }


class _Injected:
  """The published form: distances, and what shrinks them."""

  all_texts = asks = False
  words = None

  def __init__(self, given: Given):
    from bigrec_jax.rankers import grounder

    loaded, chosen = given.loaded, given.chosen
    known = "popularity" in chosen.parts
    self.models = chosen.models_in_use
    self._ground = grounder.Grounder(
      given.items,
      loaded.catalogue.groups,
      given.popularity if known else None,
      chosen.gamma,
      loaded.config.ground,
      loaded.mesh,
      most_users=loaded.config.ground.batch_size,
    )
    self.table = self._ground.table

  def __call__(
    self,
    users: "candidates.Users",
    own: Texts,
    wanted: Wanted,
  ) -> "grounder.Recommended":
    del own
    read = users.cf[self.models[0]] if self.models else None
    return self._ground(
      users.queries[:, 0], wanted.hidden, read, wanted.k, wanted.allowed
    )


class _AllBeams:
  """The mixture over all beams."""

  all_texts, asks, models, words = True, False, (), None
  table = None

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
    wanted: Wanted,
  ) -> "grounder.Recommended":
    assert users.log_probs is not None
    titles = np.full(users.log_probs.shape, -1, np.int32)
    found = likely.written(self._loaded, own.texts)
    titles[:, : found.shape[1]] = found
    return self._lists(users.queries, users.log_probs, titles, *wanted)


def _models(given: Given) -> tuple[str, ...]:
  """Returns the CF models that a system was fitted with.

  Raises:
    UserError: another one is at hand.
  """
  chosen = given.chosen
  found = chosen.models_in_use
  if set(found) - set(chosen.models):
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
  for model in models[:1]:  # The one that candidates came from on valid.
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
    self.table = self._lists.table

  def __call__(
    self,
    users: "candidates.Users",
    own: Texts,
    wanted: Wanted,
  ) -> "grounder.Recommended":
    found = _ask(self._judge, users, own, self.models)
    queries, scores = users.queries[:, 0], found.scores(self._weight)
    return self._lists(found.titles, scores, queries, *wanted)


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
    self.table = self._lists.table

  def __call__(
    self,
    users: "candidates.Users",
    own: Texts,
    wanted: Wanted,
  ) -> "grounder.Recommended":
    asked = None
    if self._judge is not None:
      asked = _ask(self._judge, users, own, self.models)
    return self._lists(users, wanted.hidden, wanted.k, asked, wanted.allowed)
