"""The tuned model as a writer of titles: prompts in, texts and scores out."""

import functools
import pathlib
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from bigrec_jax import config as config_lib, errors, progress as reports
from bigrec_jax.data.prepared import catalogue as catalogue_lib, editions
from bigrec_jax.data.text import encoding, prompts
from bigrec_jax.recommend import cf_scorer, loaded as loaded_lib
from bigrec_jax.workdir import parts as parts_lib

if TYPE_CHECKING:
  from bigrec_jax.decoding import constraints, generate, running as slots_lib
  from bigrec_jax.models import soft_tokens

# Rows [n] of what is decoded to their CF scores, float32 [n, I].
Scores = Callable[[np.ndarray], np.ndarray]
_REFERENCE_BATCH = 8  # Of the published script; see norm_lengths below.


class Decoder:
  """The tuned model, loaded once for any number of batches.

  Attributes:
    trie: the titles that may be written, on the devices; None = any text.
  """

  def __init__(
    self, loaded: loaded_lib.Loaded, adapter: pathlib.Path, room: float = 0.0
  ):
    """Loads base and adapter; builds the trie where one is asked for.

    Args:
      loaded: configuration and workdir.
      adapter: a PEFT directory.
      room: share of the titles that may be added to the trie later.
    """
    from bigrec_jax.models import own_weights

    self._loaded = loaded
    lora_config, self._lora = loaded.load_adapter(adapter)
    self._model = loaded.build(lora_config)
    self._lora = own_weights.prepare(self._model, self._lora)
    self.trie: constraints.Trie | None = None
    self._masses = None
    config = loaded.config.generate
    if config.constrained:
      self.trie, self._masses = _trie(loaded, room)
    if config.lookahead and not config.looks_ahead:
      logging.warning(
        "config.generate.lookahead: %d is not used with constrained=%s,"
        " sample=%s and num_beams=%d; only several beams of titles look ahead",
        config.lookahead,
        config.constrained,
        config.sample,
        config.num_beams,
      )

  def __call__(
    self,
    tokens: list[list[int]],
    seed: int,
    progress: reports.Reports,
    prefix: "generate.Prefix | None" = None,
    kept: parts_lib.Rows | None = None,
    cf: Scores | None = None,
    soft: "soft_tokens.Prompts | None" = None,
  ) -> list[dict[str, list]]:
    """Returns {"predict": texts, best first, "scores"} of every prompt.

    Args:
      tokens: the prompts.
      seed: of sampling.
      progress: told of every prompt done.
      prefix: what all prompts begin with, where that was read before.
      kept: the prompts that were done before, and where others go as they are
        done.
      cf: reads the scores of `generate.prior`, where it names a model.
      soft: soft tokens of the prompts, if any.

    Raises:
      NonFiniteError: the network gives NaN for a prompt.
    """
    from bigrec_jax.decoding import generate

    loaded, config = self._loaded, self._loaded.config.generate
    written = {} if kept is None else dict(kept.known)
    masses, log_masses = self._masses, None
    if masses is not None:
      if cf is None:
        raise ValueError("no CF scores for generate.prior")
      read: Scores = cf
      log_masses = lambda rows: masses(read(rows))  # noqa: E731

    def finished(row: int, beams: list[list[int]], scores: np.ndarray) -> None:
      written[row] = self.texts(beams, scores)
      if kept is not None:
        kept.add(row, written[row])

    generate.generate(
      self._model,
      loaded.base.params,
      self._lora,
      tokens,
      config,
      loaded.tokenizer.eos_ids,
      loaded.mesh,
      seed=seed,
      norm_lengths=norm_lengths(tokens, config),
      trie=self.trie,
      progress=progress,
      prefix=prefix,
      finished=finished,
      rest=[n for n in range(len(tokens)) if n not in written],
      log_masses=log_masses,
      soft=soft,
    )
    return [written[n] for n in range(len(tokens))]

  def texts(
    self, beams: Sequence[Sequence[int]], scores: np.ndarray
  ) -> dict[str, list]:
    """Returns {"predict": texts, best first, "scores"} of hypotheses.

    Args:
      beams: [<= W] tokens, best first.
      scores: [W] float32.
    """
    decode = self._loaded.tokenizer.decode
    return {
      "predict": [prompts.response_text(decode(list(ids))) for ids in beams],
      # A trie of few titles leaves beams without a hypothesis.
      "scores": [float(score) for score in scores[: len(beams)]],
    }

  def running(self, slots: int, buckets: Sequence[int]) -> "slots_lib.Running":
    """Returns slots in which prompts are decoded as they come.

    Args:
      slots: at least this many.
      buckets: widths to which prompts are padded.
    """
    from bigrec_jax.decoding import running

    loaded = self._loaded
    network = running.Network(
      self._model,
      loaded.base.params,
      self._lora,
      self._prefix,
      tuple(loaded.tokenizer.eos_ids),
      loaded.mesh,
      loaded.config.seed,
    )
    return running.Running(
      network, loaded.config.generate, self.trie, slots, buckets
    )

  def prompt(
    self, name: Hashable, titles: Sequence[str], items: np.ndarray
  ) -> "slots_lib.Prompt | None":
    """Returns a history for `running`; None where it begins in another way.

    Args:
      name: of whoever waits for it.
      titles: of the history, oldest first.
      items: [H] their catalogue rows, padded at the right with -1.
    """
    from bigrec_jax.decoding import running

    (tokens,) = self.prompt_tokens([titles])
    if not self._prefix.begins(tokens):
      return None
    masses = None
    if self._masses is not None and self._cf_scorer is not None:
      masses = self._masses(self._cf_scorer(items[None]))[0]
    own = tokens[len(self._prefix.ids) :]
    return running.Prompt(name, own, len(tokens), masses)

  def trie_of(
    self, edition: editions.Edition, offered: catalogue_lib.Catalogue
  ) -> "constraints.Trie | None":
    """Returns the trie of an edition, for the programs of the present one.

    Args:
      edition: of the catalogue.
      offered: its items.

    Raises:
      UserError: it is larger than there is room for.
    """
    if self.trie is None:
      return None
    from bigrec_jax.decoding import constraints
    from bigrec_jax.devices import sharding

    before = self.trie
    _check_prior(self._loaded, edition)
    trie = constraints.build_trie(
      *_title_tokens(self._loaded, edition, offered), like=before
    )
    for name, found, room in (
      ("titles", len(trie.tokens), len(before.tokens)),
      ("titles with one beginning", trie.max_children, before.max_children),
      ("tokens of a title", trie.depth, before.depth),
    ):
      if found > room:
        raise errors.UserError(
          f"catalogue: {name}: more found than there is room for in the trie;"
          " config.serve.spare_items larger, or a server that is started anew,"
          " expected"
        )
    return sharding.put_replicated(self._loaded.mesh, trie)

  def continue_histories(
    self,
    titles: Sequence[Sequence[str]],
    items: np.ndarray,
    seed: int,
    progress: reports.Reports,
  ) -> list[dict[str, list]]:
    """Returns what `__call__` does, of histories in place of prompts.

    Args:
      titles: of each history, oldest first; the newest are named.
      items: [N, H] their catalogue rows, padded at the right with -1; read
        where there is a prior.
      seed: of sampling.
      progress: told of every history done.
    """
    tokens, cf = self.prompt_tokens(titles), self._cf_scorer
    return self(
      tokens,
      seed,
      progress,
      self.prefix_of(tokens),
      cf=None if cf is None else lambda rows: cf(items[rows]),
    )

  def prefix_of(self, tokens: list[list[int]]) -> "generate.Prefix":
    """Returns what prompts begin with; mostly what all do, read once."""
    from bigrec_jax.decoding import generate

    if all(map(self._prefix.begins, tokens)):
      return self._prefix
    # A first title that the tokenizer merges with what comes before it.
    shared = generate.shared_beginning([*self._probes, *tokens])
    return self._read_prefix(shared)

  @functools.cached_property
  def _cf_scorer(self) -> cf_scorer.Scorer | None:
    """What scores the items for new histories, where there is a prior."""
    if self._masses is None:
      return None
    return cf_scorer.load(self._loaded, self._loaded.config.generate.prior)

  def prompt_tokens(self, titles: Sequence[Sequence[str]]) -> list[list[int]]:
    """Returns the prompt of each history, the newest titles named."""
    prompt, newest = self._loaded.prompt, self._loaded.config.data.max_history
    asked = [
      (prompt.instruction, prompt.input_text(own[-newest:])) for own in titles
    ]
    return encoding.encode_questions(
      self._loaded.tokenizer,
      [(prompt.inference_text(*own), prompt.seams(*own)) for own in asked],
    )

  @functools.cached_property
  def _probes(self) -> list[list[int]]:
    """Prompts that have nothing in common but what all have."""
    return self.prompt_tokens([["0"], ["A"], []])

  @functools.cached_property
  def _prefix(self) -> "generate.Prefix":
    """What the prompts of all histories begin with, read once."""
    from bigrec_jax.decoding import generate

    return self._read_prefix(generate.shared_beginning(self._probes))

  def _read_prefix(self, ids: list[int]) -> "generate.Prefix":
    from bigrec_jax.decoding import generate

    base = self._loaded.base
    return generate.read_prefix(
      self._model, base.params, self._lora, ids, self._loaded.mesh
    )


def _trie(
  loaded: loaded_lib.Loaded, room: float
) -> "tuple[constraints.Trie, constraints.Masses | None]":
  """Returns `legal_titles` on the devices, which no call sends again."""
  from bigrec_jax.devices import sharding

  trie, masses = legal_titles(loaded, room)
  return sharding.put_replicated(loaded.mesh, trie), masses


def legal_titles(
  loaded: loaded_lib.Loaded, room: float = 0.0
) -> "tuple[constraints.Trie, constraints.Masses | None]":
  """Returns the trie of all answers that the task calls legal, and its prior.

  Both are on the host.

  Args:
    loaded: configuration and workdir.
    room: share of the titles that may be added later.
  """
  from bigrec_jax.decoding import constraints

  config, masses = loaded.config.generate, None
  _check_prior(loaded, loaded.edition)
  trie = constraints.build_trie(
    *_title_tokens(loaded, loaded.edition, loaded.offered),
    with_titles=config.has_prior,
    room=max(room, 1 / 16),
  )
  if config.has_prior:
    masses = constraints.Masses(trie, loaded.task.answers_of_items())
    prior = masses.prior(config.prior_weight)
    trie = trie.replace(titles=None, prior=prior)
  return trie, masses


def _check_prior(loaded: loaded_lib.Loaded, edition: editions.Edition) -> None:
  """Raises UserError where a prior would have to know items it can't know."""
  config = loaded.config.generate
  if config.has_prior and edition.fingerprint != edition.prepared:
    raise errors.UserError(
      f"config.generate.prior: {config.prior} found, which knows the prepared"
      " items alone, but some were added or withdrawn; no prior, or the"
      f" prepared catalogue (no {loaded.paths.editions}), expected"
    )


def _title_tokens(
  loaded: loaded_lib.Loaded,
  edition: editions.Edition,
  offered: catalogue_lib.Catalogue,
) -> "constraints.Encoded":
  """Returns the titles that may be written, as tokens."""
  from bigrec_jax.decoding import constraints

  tokenizer = loaded.tokenizer
  answers = loaded.task.legal_answers()
  if edition.number:
    kept = edition.listed(offered)
    titles = offered.titles
    if kept is not None:
      titles = tuple(titles[row] for row in np.flatnonzero(kept))
    # As the task has them.
    answers = [loaded.prompt.output_text(t) for t in dict.fromkeys(titles)]
  return constraints.title_tokens(
    answers,
    loaded.prompt.answer_context,
    tokenizer.encode_data,
    tokenizer.decode,
    tokenizer.eos_id,
  )


def norm_lengths(
  tokens: list[list[int]], config: config_lib.GenerateConfig
) -> np.ndarray | None:
  """Returns [N] prompt lengths that the score normalisation counts, or None.

  Before November 2023 Hugging Face divided a hypothesis' score by its length
  with the prompt and its padding (quirk 8), so the longest prompt of a batch
  counts for all of it; the published batches are 8 consecutive rows.
  """
  if not config.length_norm_includes_prompt:
    return None
  lengths = np.array([len(row) for row in tokens], np.int32)
  for start in range(0, len(lengths), _REFERENCE_BATCH):
    batch = slice(start, start + _REFERENCE_BATCH)
    lengths[batch] = lengths[batch].max()
  return lengths
