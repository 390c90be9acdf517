"""Texts as vectors of the space that the catalogue's titles are in."""

import numpy as np

from bigrec_jax import errors, progress as reports
from bigrec_jax.recommend import loaded as loaded_lib
from bigrec_jax.workdir import fingerprints, parts as parts_lib

_SHOWN = 60  # Characters of a text in a message.


def embed_queries(
  loaded: loaded_lib.Loaded,
  texts: list[str],
  items: np.ndarray,
  progress: reports.Reports,
  parts: parts_lib.Parts | None = None,
) -> np.ndarray:
  """Returns the embeddings of predicted titles [N, D] float32.

  A text that is a title of the catalogue takes that title's embedding: the
  same bits, so that its distance is exactly 0, and no work.

  Args:
    loaded: configuration and workdir.
    texts: cleaned predictions.
    items: [I, D], the catalogue's embeddings.
    progress: told of every text that goes through the encoder.
    parts: see `embed_texts`.

  Raises:
    NonFiniteError: the encoder gives NaN for a text; names it.
  """
  rows = [loaded.offered.index_of_clean_title(text) for text in texts]
  queries = np.empty((len(texts), items.shape[1]), np.float32)
  new = [n for n, row in enumerate(rows) if row is None]
  known = [n for n, row in enumerate(rows) if row is not None]
  queries[known] = items[[row for row in rows if row is not None]]
  if new:
    try:
      queries[new] = embed_texts(
        loaded, [texts[n] for n in new], progress, parts
      )
    except errors.NonFiniteError as error:
      row = new[error.row]
      raise error.of(row, _name(row, texts[row])) from None
  return queries


def embed_texts(
  loaded: loaded_lib.Loaded,
  texts: list[str],
  progress: reports.Reports,
  parts: parts_lib.Parts | None = None,
) -> np.ndarray:
  """Returns the encoder's vectors [N, D] float32; equal texts once.

  Args:
    loaded: configuration and workdir.
    texts: cleaned titles.
    progress: told of every different text done.
    parts: what of these very texts was done before a kill, and where more
      goes; None = nothing is kept.

  Raises:
    NonFiniteError: the encoder gives NaN for a text; names it.
  """
  unique = {text: n for n, text in enumerate(dict.fromkeys(texts))}
  kept = None
  if parts is not None:
    key = f"vectors {fingerprints.of_value(list(unique))}"
    kept = parts_lib.Vectors(parts, key, len(unique), loaded.encoder.width)
  try:
    vectors = loaded.encoder.encode(list(unique), progress, kept)
  except errors.NonFiniteError as error:
    text = list(unique)[error.row]
    row = texts.index(text)
    raise error.of(row, _name(row, text)) from None
  return vectors[[unique[text] for text in texts]]


def _name(row: int, text: str) -> str:
  shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
  return f"text {row}, {shown!r}"
