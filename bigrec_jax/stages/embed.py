"""Catalogue titles through the base model."""

import contextlib
import pathlib

import numpy as np

from bigrec_jax import config as config_lib, progress as reports
from bigrec_jax.data.text import prompts
from bigrec_jax.rankers.distance import stored_embeddings
from bigrec_jax.stages import graph, pretrain
from bigrec_jax.stages.session import Asked, Session
from bigrec_jax.workdir import processes


def run(
  config: config_lib.Config, workdir: pathlib.Path, asked: Asked | None = None
) -> None:
  """Writes `embeddings/`, unless it is current."""
  Session(config, workdir, asked).make(STAGE)


def _inputs(session: Session) -> graph.Inputs:
  return {
    "base": session.base_fingerprint,
    "catalogue": session.catalogue.fingerprint,
  }


def _load(session: Session) -> np.ndarray:
  return stored_embeddings.load(
    session.paths.embeddings, session.catalogue, session.base_fingerprint
  )


def _build(session: Session, _: graph.Inputs) -> np.ndarray:
  titles = [prompts.clean_title(title) for title in session.catalogue.titles]
  vectors = embed_texts(session, titles, "embed")
  processes.on_first(
    lambda: stored_embeddings.save(
      session.paths.embeddings,
      vectors,
      session.catalogue,
      session.base_fingerprint,
    )
  )
  return vectors


def _cost(session: Session) -> graph.Cost | None:
  count = session.num_items()
  return None if count is None else graph.Cost(count, "texts", "embed")


# Its value: title embeddings [I, D] float32.
STAGE = graph.Stage(
  name="embeddings",
  mode="embed",
  where=lambda session: session.paths.embeddings,
  needs=pretrain.needed,
  inputs=_inputs,
  is_there=lambda session: session.paths.embeddings.exists(),
  build=_build,
  load=_load,
  batches=("embed.batch_size",),
  cost=_cost,
)


def embed_queries(
  session: Session, texts: list[str], items: np.ndarray, label: str
) -> np.ndarray:
  """Returns the embeddings of predicted titles [N, D] float32.

  A text that is a title of the catalogue takes that title's embedding: the
  same bits, so that its distance is exactly 0, and no work.

  Args:
    session: configuration and workdir.
    texts: cleaned predictions.
    items: [I, D], the catalogue's embeddings.
    label: of the progress; "" = none is shown.
  """
  row_of = {}
  for row, title in enumerate(session.catalogue.titles):
    row_of.setdefault(prompts.clean_title(title), row)
  queries = np.empty((len(texts), items.shape[1]), np.float32)
  new = [n for n, text in enumerate(texts) if text not in row_of]
  known = [n for n, text in enumerate(texts) if text in row_of]
  queries[known] = items[[row_of[texts[n]] for n in known]]
  if new:
    queries[new] = embed_texts(session, [texts[n] for n in new], label)
  return queries


def embed_texts(session: Session, texts: list[str], label: str) -> np.ndarray:
  """Returns last-token states [N, D] of the base model; equal texts once.

  Args:
    session: configuration and workdir.
    texts: cleaned titles.
    label: of the progress; "" = none is shown.
  """
  from bigrec_jax.models import embedding

  unique = {text: n for n, text in enumerate(dict.fromkeys(texts))}
  # An empty text has no token where the tokenizer adds no BOS.
  tokens = [
    ids or [session.tokenizer.eos_id]
    for ids in session.tokenizer.encode_batch(list(unique))
  ]
  shown = contextlib.nullcontext(reports.NullProgress())
  if label:
    shown = session.stage(label, len(tokens), "texts")
  with shown as progress:
    vectors = embedding.embed_texts(
      session.base.model,
      session.base.params,
      tokens,
      session.config.embed.batch_size,
      session.mesh,
      progress,
    )
  return vectors[[unique[text] for text in texts]]
