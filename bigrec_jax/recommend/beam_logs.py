"""Log-probabilities of beams, out of the scores that are kept of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigrec_jax.rankers import beam_texts
from bigrec_jax.recommend import loaded as loaded_lib


def of_rows(
  loaded: loaded_lib.Loaded,
  rows: Sequence[Mapping[str, Any]],
  norm_lengths: np.ndarray | None,
) -> list[list[float]]:
  """Returns the log-probability of every beam, its length norm taken out.

  Not of beams that were written with a prior: their scores are mixtures, which
  the configuration refuses to read so. The length of a beam is that of its
  text as the tokenizer writes it behind a prompt.

  Args:
    loaded: configuration and tokenizer.
    rows: each with `predict` and `scores`.
    norm_lengths: of the prompts, see `decoder.norm_lengths`.
  """
  tokenizer, marker = loaded.tokenizer, loaded.prompt.answer_context
  flat = [marker + text for row in rows for text in row["predict"]]
  (before,) = tokenizer.encode_data([marker])
  written = iter(tokenizer.encode_data(flat))
  lengths = [
    [len(next(written)) - len(before) for _ in row["predict"]] for row in rows
  ]
  scores = [row["scores"] for row in rows]
  generate = loaded.config.generate
  return beam_texts.from_scores(scores, lengths, norm_lengths, generate)
