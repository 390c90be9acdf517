"""Catalogue titles through the base model."""

import contextlib
import pathlib

import numpy as np

from bigrec_jax import config as config_lib, progress as reports
from bigrec_jax.data.text import prompts
from bigrec_jax.rankers.distance import stored_embeddings
from bigrec_jax.stages import pretrain, session
from bigrec_jax.workdir import processes, records


def run(config: config_lib.Config, workdir: pathlib.Path) -> None:
  """Writes `embeddings/`, unless it is current."""
  ensure(session.Session(config, workdir))


def ensure(run: session.Session) -> np.ndarray:
  """Returns the title embeddings [I, D] float32, made where not current."""
  pretrain.ensure(run)
  made_from = {
    "base": run.base_fingerprint,
    "catalogue": run.catalogue.fingerprint,
  }
  record = run.paths.record("embeddings")
  stored = run.paths.embeddings
  if records.is_current(record, made_from, stored):
    session.say(f"embed: {stored} is current")
    return stored_embeddings.load(stored, run.catalogue, run.base_fingerprint)
  titles = [prompts.clean_title(title) for title in run.catalogue.titles]
  vectors = embed_texts(run, titles, "embed")
  processes.on_first(
    lambda: stored_embeddings.save(
      stored, vectors, run.catalogue, run.base_fingerprint
    )
  )
  records.write_record(record, made_from)
  return vectors


def embed_queries(
  run: session.Session, texts: list[str], items: np.ndarray, label: str
) -> np.ndarray:
  """Returns the embeddings of predicted titles [N, D] float32.

  A text that is a title of the catalogue takes that title's embedding: the
  same bits, so that its distance is exactly 0, and no work.

  Args:
    run: configuration and workdir.
    texts: cleaned predictions.
    items: [I, D], the catalogue's embeddings.
    label: of the progress; "" = none is shown.
  """
  row_of = {}
  for row, title in enumerate(run.catalogue.titles):
    row_of.setdefault(prompts.clean_title(title), row)
  queries = np.empty((len(texts), items.shape[1]), np.float32)
  new = [n for n, text in enumerate(texts) if text not in row_of]
  known = [n for n, text in enumerate(texts) if text in row_of]
  queries[known] = items[[row_of[texts[n]] for n in known]]
  if new:
    queries[new] = embed_texts(run, [texts[n] for n in new], label)
  return queries


def embed_texts(
  run: session.Session, texts: list[str], label: str
) -> np.ndarray:
  """Returns last-token states [N, D] of the base model; equal texts once.

  Args:
    run: configuration and workdir.
    texts: cleaned titles.
    label: of the progress; "" = none is shown.
  """
  from bigrec_jax.models import embedding

  unique = {text: n for n, text in enumerate(dict.fromkeys(texts))}
  # An empty text has no token where the tokenizer adds no BOS.
  tokens = [
    ids or [run.tokenizer.eos_id]
    for ids in run.tokenizer.encode_batch(list(unique))
  ]
  shown = contextlib.nullcontext(reports.NullProgress())
  if label:
    shown = run.stage(label, len(tokens), "texts")
  with shown as progress:
    vectors = embedding.embed_texts(
      run.base.model,
      run.base.params,
      tokens,
      run.config.embed.batch_size,
      run.mesh,
      progress,
    )
  return vectors[[unique[text] for text in texts]]
