"""The tuned model as a writer of titles: prompts in, texts and scores out."""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from bigrec_jax import config as config_lib, progress as reports
from bigrec_jax.data.text import encoding, prompts
from bigrec_jax.recommend import cf_scorer, loaded as loaded_lib
from bigrec_jax.workdir import parts as parts_lib

if TYPE_CHECKING:
  from bigrec_jax.decoding import constraints, generate
  from bigrec_jax.models import soft_tokens

# Rows [n] of what is decoded to their CF scores, float32 [n, I].
Scores = Callable[[np.ndarray], np.ndarray]
_REFERENCE_BATCH = 8  # Of the published script; see norm_lengths below.


class Decoder:
  """The tuned model, loaded once for any number of batches."""

  def __init__(self, loaded: loaded_lib.Loaded, adapter: pathlib.Path):
    """Loads base and adapter; builds the trie where one is asked for.

    Args:
      loaded: configuration and workdir.
      adapter: a PEFT directory.
    """
    from bigrec_jax.models import own_weights

    self._loaded = loaded
    lora_config, self._lora = loaded.load_adapter(adapter)
    self._model = loaded.build(lora_config)
    self._lora = own_weights.prepare(self._model, self._lora)
    self._trie, self._masses = None, None
    config = loaded.config.generate
    if config.constrained:
      self._trie, self._masses = _trie(loaded)
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
      written[row] = {
        "predict": [
          prompts.response_text(loaded.tokenizer.decode(ids)) for ids in beams
        ],
        # A trie of few titles leaves beams without a hypothesis.
        "scores": [float(score) for score in scores[: len(beams)]],
      }
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
      trie=self._trie,
      progress=progress,
      prefix=prefix,
      finished=finished,
      rest=[n for n in range(len(tokens)) if n not in written],
      log_masses=log_masses,
      soft=soft,
    )
    return [written[n] for n in range(len(tokens))]

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
  loaded: loaded_lib.Loaded,
) -> "tuple[constraints.Trie, constraints.Masses | None]":
  """Returns `legal_titles` on the devices, which no call sends again."""
  from bigrec_jax.devices import sharding

  trie, masses = legal_titles(loaded)
  return sharding.put_replicated(loaded.mesh, trie), masses


def legal_titles(
  loaded: loaded_lib.Loaded,
) -> "tuple[constraints.Trie, constraints.Masses | None]":
  """Returns the trie of all answers that the task calls legal, and its prior.

  Both are on the host.
  """
  from bigrec_jax.decoding import constraints

  tokenizer = loaded.tokenizer
  encoded = constraints.title_tokens(
    loaded.task.legal_answers(),
    loaded.prompt.answer_context,
    tokenizer.encode_data,
    tokenizer.decode,
    tokenizer.eos_id,
  )
  config, masses = loaded.config.generate, None
  trie = constraints.build_trie(*encoded, with_titles=config.has_prior)
  if config.has_prior:
    masses = constraints.Masses(trie, loaded.task.answers_of_items())
    prior = masses.prior(config.prior_weight)
    trie = trie.replace(titles=None, prior=prior)
  return trie, masses


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
