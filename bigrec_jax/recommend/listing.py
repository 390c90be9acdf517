"""What makes the lists: an injection, all beams, likelihood or a fused score.

Letters: N users, n some of them, B texts of a user, D width, I items.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrec_jax import errors
from bigrec_jax.data.text import prompts
from bigrec_jax.recommend import (
  beam_logs,
  decoder,
  list_makers,
)
from bigrec_jax.recommend.list_inputs import (
  Given,
  ReadPrompts,
  Texts,
  Wanted,
)
from bigrec_jax.results import chosen as chosen_lib

if TYPE_CHECKING:
  from bigrec_jax.rankers import grounder
  from bigrec_jax.rankers.combine import candidates
  from bigrec_jax.rankers.distance import streamed


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
    make: type[
      list_makers.Injected
      | list_makers.AllBeams
      | list_makers.Likelihood
      | list_makers.Fused
    ] = list_makers.Injected
    if system == chosen_lib.ALL_BEAMS:
      make = list_makers.AllBeams
    elif system in chosen_lib.LIKELIHOODS:
      make = list_makers.Likelihood
    elif system:
      make = list_makers.Fused
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
    given = self._given
    return streamed.streamed(given.items, given.groups, self._loaded.mesh)

  def texts(
    self,
    written: Sequence[Mapping[str, Any]],
    read_prompts: ReadPrompts,
    as_evaluated: bool = False,
  ) -> Texts:
    """Returns what counts of what was written.

    Args:
      written: {"predict", "scores"} of each user.
      read_prompts: returns the prompts, where they count.
      as_evaluated: a first text without any letter counts, as in an
        evaluation, whatever `recommend.fallback` says.
    """
    from bigrec_jax.rankers import beam_texts

    config = self._loaded.config.generate
    asked = read_prompts() if self._lists.asks else None
    if self._loaded.config.recommend.fallback and not as_evaluated:
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

  @property
  def grows(self) -> bool:
    """Whether rows may be rewritten; see `grows`."""
    lists = self._lists
    return (
      isinstance(lists, (list_makers.Injected, list_makers.Fused))
      and not lists.asks
    )

  def rewritten(self, rows: slice) -> None:
    """Takes rows, maybe none, and popularity from the shelf as it is now.

    Nobody makes lists meanwhile.
    """
    assert isinstance(self._lists, (list_makers.Injected, list_makers.Fused))
    self._lists.rewritten(rows)
    self.__dict__.pop("table", None)  # It was that of the lists.

  def warm_up(
    self, users: "candidates.Users", own: Texts, wanted: Wanted
  ) -> None:
    """Compiles what lists of these sizes take; the arguments are a call's.

    Of an injection that is every program. What a system needs for rare lists,
    such as those of hundreds of items with one title, is compiled then.
    """
    self(users, own, wanted)
    if isinstance(self._lists, list_makers.Injected):
      self._lists.warm_up(users, own, wanted)
    from bigrec_jax.rankers import signs

    ground = self._loaded.config.ground
    signs.warm_up(
      self.table,
      users.queries[:, 0],
      most_users=ground.batch_size,
      most_items=ground.block_items,
    )


def grows(chosen: chosen_lib.Chosen) -> bool:
  """Returns whether lists can have items that come later.

  Not where all items share a mixture, as with all beams, nor where the model
  is asked of titles: what it says of each is kept by their number.
  """
  if not chosen.system:
    return True
  others = (chosen_lib.ALL_BEAMS, *chosen_lib.LIKELIHOODS)
  if chosen.system in others:
    return False
  from bigrec_jax.rankers.combine import fusion

  return not fusion.Fusion.from_json(
    chosen.fitted, list_makers.FITTED
  ).likelihood


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
