"""Titles for every user of a split: beam search, or sampling."""

import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrec_jax import config as config_lib, prompts, schema
from bigrec_jax.data import examples as examples_lib, pipeline
from bigrec_jax.modes import artefacts, session, train

if TYPE_CHECKING:
  from bigrec_jax.decoding import constraints, generate

# Keys that change how decoding runs but not what comes out.
_RUNTIME_KEYS = ("split", "prompt_buckets")
_REFERENCE_BATCH = 8  # Of the published script; see norm_lengths below.


def run(config: config_lib.Config, workdir: pathlib.Path) -> None:
  """Writes `predictions/{valid,test}.json` for `generate.split`."""
  current = session.Session(config, workdir)
  for split in config.generate.splits:
    ensure(current, split)


def ensure(run: session.Session, split: str) -> list[dict[str, Any]]:
  """Returns the prediction rows of a split, decoded where not current."""
  adapter = train.find_adapter(run) or train.ensure(run)
  made_from = _made_from(run, split, adapter)
  record = run.paths.record(f"predictions_{split}")
  path = run.paths.predictions(split)
  if artefacts.is_current(record, made_from, path):
    session.say(f"generate: {path} is current")
    return schema.read_json(path)
  rows = _decode(run, split, adapter)
  schema.write_json(path, rows, indent=1)
  artefacts.write_record(record, made_from)
  return rows


def _made_from(
  run: session.Session, split: str, adapter: train.Adapter
) -> dict[str, Any]:
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
    "examples": run.examples(split).fingerprint,
    "seed": run.config.seed if run.config.generate.sample else None,
  }


def _decode(
  run: session.Session, split: str, adapter: train.Adapter
) -> list[dict[str, Any]]:
  from bigrec_jax.decoding import generate

  config = run.config.generate
  examples = run.examples(split)
  tokens = pipeline.prompt_tokens(
    examples, run.catalogue, run.prompt, run.tokenizer
  )
  lora_config, lora = run.load_adapter(adapter.directory)
  with run.stage(f"generate {split}", len(tokens), "users") as progress:
    found = generate.generate(
      run.build(lora_config),
      run.base.params,
      lora,
      tokens,
      config,
      run.tokenizer.eos_ids,
      run.mesh,
      seed=run.config.seed,
      norm_lengths=_norm_lengths(tokens, config),
      trie=_trie(run) if config.constrained else None,
      progress=progress,
    )
  return _rows(run, examples, found)


def _trie(run: session.Session) -> "constraints.Trie":
  """Returns the trie of all titles as the model is taught to write them."""
  from bigrec_jax.decoding import constraints

  titles = dict.fromkeys(run.catalogue.titles)
  sequences = constraints.title_tokens(
    [run.prompt.output_text(title) for title in titles],
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


def _rows(
  run: session.Session,
  examples: examples_lib.Examples,
  found: "generate.Hypotheses",
) -> list[dict[str, Any]]:
  """Returns BIGRec rows with `predict` (best first) and `scores`."""
  rows = []
  texts = pipeline.example_texts(examples, run.catalogue, run.prompt)
  for n, (instruction, history, output) in enumerate(texts):
    predict = [
      prompts.response_text(run.tokenizer.decode(ids))
      for ids in found.tokens[n]
    ]
    rows.append(
      {
        "instruction": instruction,
        "input": history,
        "output": output,
        "predict": predict,
        "scores": [float(score) for score in found.scores[n]],
      }
    )
  return rows
