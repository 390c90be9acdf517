"""The beams of a user as texts with probabilities: what the rankers ask for.

Beams that are the same title once cleaned are one text, which has the
probabilities of all of them together.

Letters: N users, W beams.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bigrec_jax.config import GenerateConfig


class BeamTexts(NamedTuple):
  """Different texts of every user, best first.

  Attributes:
    texts: [N][<= W] cleaned titles, at least one of each user.
    logs: [N, W] float64 log-probabilities, -inf where there is no text.
  """

  texts: list[list[str]]
  logs: np.ndarray


def from_scores(
  scores: Sequence[Sequence[float]],
  lengths: Sequence[Sequence[int]],
  prompt_lengths: np.ndarray | None,
  config: GenerateConfig,
) -> list[list[float]]:
  """Returns the log-probability [N][W] of every beam, sum over its tokens.

  The inverse of `decoding.stepping.length_norms`.

  Args:
    scores: [N][W] of the predictions: sums over their length norms.
    lengths: [N][W] tokens of each beam, without EOS.
    prompt_lengths: [N] where the norm counts the prompt, in place of EOS.
    config: section `generate`, by which the beams were written.
  """
  found = []
  for n, own in enumerate(zip(scores, lengths, strict=True)):
    base = 1 if prompt_lengths is None else int(prompt_lengths[n])
    most = config.max_new_tokens - (prompt_lengths is None)
    found.append(
      [
        score * float(base + min(length, most)) ** config.length_penalty
        for score, length in zip(*own, strict=True)
      ]
    )
  return found


def from_order(counts: Sequence[int]) -> list[list[float]]:
  """Returns logarithms of 1, 1/2, 1/3, ... for beams that have no scores."""
  return [[-float(np.log(n + 1)) for n in range(count)] for count in counts]


def merged(
  texts: Sequence[Sequence[str]], logs: Sequence[Sequence[float]]
) -> BeamTexts:
  """Returns the different texts, where their first beam was.

  Args:
    texts: [N][W] cleaned titles, best first.
    logs: [N][W] log-probabilities; beams of -inf are texts, too.
  """
  rows: list[dict[str, float]] = []
  for own_texts, own_logs in zip(texts, logs, strict=True):
    row: dict[str, float] = {}
    for text, log in zip(own_texts, own_logs, strict=True):
      row[text] = float(np.logaddexp(row.get(text, -np.inf), log))
    rows.append(row)
  found = np.full((len(rows), max(map(len, rows), default=1)), -np.inf)
  for own, row in zip(found, rows, strict=True):
    own[: len(row)] = list(row.values())
  return BeamTexts([list(row) for row in rows], found)


def weights(logs: np.ndarray, temperature: float) -> np.ndarray:
  """Returns log pi [N, W]: a softmax of log-probabilities over temperature.

  Args:
    logs: [N, W] of `BeamTexts`; rows of -inf alone count as equal beams.
    temperature: 1 takes the probabilities as they are; 0 is the first beam
      alone, as published, be it the most probable or not.
  """
  if not temperature:
    first = np.full(logs.shape, -np.inf)
    first[:, 0] = 0.0
    return first
  impossible = np.isneginf(logs).all(axis=1, keepdims=True)
  scaled = np.where(impossible, 0.0, logs) / temperature
  top = scaled.max(axis=1, keepdims=True)
  return scaled - top - np.log(np.exp(scaled - top).sum(axis=1, keepdims=True))
