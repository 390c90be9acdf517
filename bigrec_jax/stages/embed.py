"""Catalogue titles through the text encoder, the base model by default."""

import pathlib
from collections.abc import Iterator

import numpy as np

from bigrec_jax import config as config_lib, progress as reports
from bigrec_jax.data.text import prompts
from bigrec_jax.rankers.distance import stored_embeddings
from bigrec_jax.recommend import queries
from bigrec_jax.stages import graph, prepare, pretrain
from bigrec_jax.stages.session import Asked, Session
from bigrec_jax.workdir import parts as parts_lib, processes


def run(
  config: config_lib.Config, workdir: pathlib.Path, asked: Asked | None = None
) -> None:
  """Writes `embeddings/`, unless it is current; adds `data.catalogue_add`."""
  from bigrec_jax.stages import additions  # It needs this stage.

  session = Session(config, workdir, asked)
  session.lists_editions = True
  stages = [STAGE]
  if config.data.catalogue_add:
    stages.append(additions.STAGE)
  session.make(*stages)


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


def _build(session: Session, inputs: graph.Inputs) -> np.ndarray:
  """Writes the vectors; a kill costs those of the last seconds (parts.py)."""
  titles = [prompts.clean_title(title) for title in session.catalogue.titles]
  with (
    session.parts(STAGE.name, inputs) as parts,
    session.stage("embed", len(set(titles)), "texts") as progress,
  ):
    vectors = queries.embed_texts(session, titles, progress, parts)
    processes.on_first(parts.flush)  # Before anything that may fail.
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
  files=lambda session: ("embeddings/*.npy", "embeddings/*.json"),
  build=_build,
  load=_load,
  batches=("embed.batch_size",),
  cost=_cost,
)


def embed_queries(
  session: Session,
  texts: list[str],
  items: np.ndarray,
  label: str,
  parts: parts_lib.Parts,
) -> np.ndarray:
  """Returns the embeddings of predicted titles [N, D] float32, with progress.

  Args:
    session: configuration and workdir.
    texts: cleaned predictions.
    items: [I, D], the catalogue's embeddings.
    label: of the progress.
    parts: of the stage that asks.
  """
  find = session.catalogue.index_of_clean_title
  unknown = {text for text in texts if find(text) is None}
  if not unknown:
    return queries.embed_queries(session, texts, items, reports.NullProgress())
  with session.stage(label, len(unknown), "texts") as progress:
    return queries.embed_queries(session, texts, items, progress, parts)
