"""Catalogue titles through the text encoder, the base model by default."""

import contextlib
import pathlib
from collections.abc import Iterator

import numpy as np

from bigrec_jax import config as config_lib, progress as reports
from bigrec_jax.data.text import prompts
from bigrec_jax.rankers.distance import stored_embeddings
from bigrec_jax.stages import graph, prepare, pretrain
from bigrec_jax.stages.session import Asked, Session
from bigrec_jax.workdir import processes


def run(
  config: config_lib.Config, workdir: pathlib.Path, asked: Asked | None = None
) -> None:
  """Writes `embeddings/`, unless it is current."""
  Session(config, workdir, asked).make(STAGE)


def _needed(session: Session) -> Iterator[graph.Stage]:
  if session.has_own_encoder:
    session.check_encoder()
    yield prepare.STAGE
  else:
    yield from pretrain.needed(session)


def _inputs(session: Session) -> graph.Inputs:
  return {
    **(session.encoder_inputs or {"base": session.base_fingerprint}),
    "catalogue": session.catalogue.fingerprint,
  }


def _load(session: Session) -> np.ndarray:
  return stored_embeddings.load(
    session.paths.embeddings, session.catalogue, session.encoder_fingerprint
  )


def _build(session: Session, _: graph.Inputs) -> np.ndarray:
  titles = [prompts.clean_title(title) for title in session.catalogue.titles]
  vectors = embed_texts(session, titles, "embed")
  processes.on_first(
    lambda: stored_embeddings.save(
      session.paths.embeddings,
      vectors,
      session.catalogue,
      session.encoder_fingerprint,
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
  needs=_needed,
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
  row_of: dict[str, int] = {}
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
  """Returns the encoder's vectors [N, D] float32; equal texts once.

  Args:
    session: configuration and workdir.
    texts: cleaned titles.
    label: of the progress; "" = none is shown.
  """
  unique = {text: n for n, text in enumerate(dict.fromkeys(texts))}
  shown: contextlib.AbstractContextManager[reports.Reports]
  if label:
    shown = session.stage(label, len(unique), "texts")
  else:
    shown = contextlib.nullcontext(reports.NullProgress())
  with shown as progress:
    vectors = session.encoder.encode(list(unique), progress)
  return vectors[[unique[text] for text in texts]]
