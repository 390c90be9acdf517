"""Texts as vectors of the space that the catalogue's titles are in."""

import numpy as np

from bigrec_jax import progress as reports
from bigrec_jax.recommend import loaded as loaded_lib


def embed_queries(
  loaded: loaded_lib.Loaded,
  texts: list[str],
  items: np.ndarray,
  progress: reports.Reports,
) -> np.ndarray:
  """Returns the embeddings of predicted titles [N, D] float32.

  A text that is a title of the catalogue takes that title's embedding: the
  same bits, so that its distance is exactly 0, and no work.

  Args:
    loaded: configuration and workdir.
    texts: cleaned predictions.
    items: [I, D], the catalogue's embeddings.
    progress: told of every text that goes through the encoder.
  """
  rows = [loaded.catalogue.index_of_clean_title(text) for text in texts]
  queries = np.empty((len(texts), items.shape[1]), np.float32)
  new = [n for n, row in enumerate(rows) if row is None]
  known = [n for n, row in enumerate(rows) if row is not None]
  queries[known] = items[[row for row in rows if row is not None]]
  if new:
    queries[new] = embed_texts(loaded, [texts[n] for n in new], progress)
  return queries


def embed_texts(
  loaded: loaded_lib.Loaded, texts: list[str], progress: reports.Reports
) -> np.ndarray:
  """Returns the encoder's vectors [N, D] float32; equal texts once.

  Args:
    loaded: configuration and workdir.
    texts: cleaned titles.
    progress: told of every different text done.
  """
  unique = {text: n for n, text in enumerate(dict.fromkeys(texts))}
  vectors = loaded.encoder.encode(list(unique), progress)
  return vectors[[unique[text] for text in texts]]
