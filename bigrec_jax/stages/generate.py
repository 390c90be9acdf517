"""Titles for every user of a split: beam search, or sampling."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrec_jax import config as config_lib, errors, progress as reports
from bigrec_jax.data.text import pipeline, prompts
from bigrec_jax.stages import session, train
from bigrec_jax.workdir import processes, records, storage

if TYPE_CHECKING:
  from bigrec_jax.decoding import constraints

# Keys that change how decoding runs but not what comes out.
_RUNTIME_KEYS = ("split", "prompt_buckets")
_REFERENCE_BATCH = 8  # Of the published script; see norm_lengths below.


def run(config: config_lib.Config, workdir: pathlib.Path) -> None:
  """Writes `predictions/{valid,test}.json` for `generate.split`."""
  current = session.Session(config, workdir)
  for split in config.generate.splits:
    ensure(current, split)


def ensure(run: session.Session, split: str) -> list[dict[str, Any]]:
  """Returns the prediction rows of a split, decoded where not current.

  Raises:
    UserError: the task has nothing to decode.
  """
  if not run.task.decodes:
    raise errors.UserError(
      f"config.task.name: {run.task.name} found, whose answers are not"
      " decoded; a task that writes them expected"
    )
  adapter = train.find_adapter(run) or train.ensure(run)
  made_from = depends_on(run, adapter) | {
    "examples": run.task.samples(split).fingerprints[0]
  }
  record = run.paths.record(f"predictions_{split}")
  path = run.paths.predictions(split)
  if records.is_current(record, made_from, path):
    session.say(f"generate: {path} is current")
    return storage.read_json(path)
  rows = _decode(run, split, adapter)
  processes.on_first(lambda: storage.write_json(path, rows, indent=1))
  records.write_record(record, made_from)
  return rows


def depends_on(run: session.Session, adapter: train.Adapter) -> dict[str, Any]:
  """Returns what a prompt's text is made from, but for the prompt itself."""
  options = run.config.to_dict()
  wanted = {
    k: v for k, v in options["generate"].items() if k not in _RUNTIME_KEYS
  }
  if not run.config.generate.length_norm_includes_prompt:
    del wanted["batch_size"]  # Padding is invisible to the result.
  return {
    "base": run.base_fingerprint,
    "adapter": adapter.fingerprint,
    "generate": wanted,
    "prompt": options["prompt"],
    "seed": run.config.seed if run.config.generate.sample else None,
  }


class Decoder:
  """The tuned model, loaded once for any number of batches."""

  def __init__(self, run: session.Session, adapter: train.Adapter):
    """Loads base and adapter; builds the trie where one is asked for."""
    self._run = run
    lora_config, self._lora = run.load_adapter(adapter.directory)
    self._model = run.build(lora_config)
    self._trie = _trie(run) if run.config.generate.constrained else None

  def __call__(
    self,
    tokens: list[list[int]],
    seed: int,
    progress: reports.Reports,
    prefix: Sequence[int] | None = None,
  ) -> list[dict[str, list]]:
    """Returns {"predict": texts, best first, "scores"} of every prompt.

    Args:
      tokens: the prompts.
      seed: of sampling.
      progress: told of every prompt done.
      prefix: what all prompts begin with, where that is known.
    """
    from bigrec_jax.decoding import generate

    run, config = self._run, self._run.config.generate
    found = generate.generate(
      self._model,
      run.base.params,
      self._lora,
      tokens,
      config,
      run.tokenizer.eos_ids,
      run.mesh,
      seed=seed,
      norm_lengths=_norm_lengths(tokens, config),
      trie=self._trie,
      progress=progress,
      prefix=prefix,
    )
    return [
      {
        "predict": [
          prompts.response_text(run.tokenizer.decode(ids)) for ids in beams
        ],
        # A trie of few titles leaves beams without a hypothesis.
        "scores": [float(score) for score in scores[: len(beams)]],
      }
      for beams, scores in zip(found.tokens, found.scores, strict=True)
    ]


def _decode(
  run: session.Session, split: str, adapter: train.Adapter
) -> list[dict[str, Any]]:
  """Returns BIGRec rows with `predict` (best first) and `scores`."""
  samples = run.task.samples(split)
  tokens = pipeline.question_tokens(samples, run.tokenizer)
  decoder = Decoder(run, adapter)
  with run.stage(f"generate {split}", len(tokens), "users") as progress:
    written = decoder(tokens, run.config.seed, progress)
  return [samples.content(n) | own for n, own in enumerate(written)]


def _trie(run: session.Session) -> "constraints.Trie":
  """Returns the trie of all answers that the task calls legal."""
  from bigrec_jax.decoding import constraints

  sequences = constraints.title_tokens(
    run.task.legal_answers(),
    prompts.RESPONSE_MARKER,
    run.tokenizer.encode_batch,
    run.tokenizer.eos_id,
  )
  return constraints.build_trie(sequences)


def _norm_lengths(
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
