"""Prompts with candidates -> micro-batches: each prompt is read once.

A sample is a prompt and M answers of which one is right. The answers lie side
by side in rows of their own, Q rows a prompt, where each goes on from the
prompt without seeing the others (`LanguageModel.continue_prompts`). So a
candidate costs its own tokens, and the shape of a micro-batch depends on no
sample.

An answer of n tokens is n - 1 tokens to read: the prompt predicts the first,
and nothing is read behind the last.

Letters: R prompts of a micro-batch, S their length, M candidates of a prompt,
Q rows of a prompt's candidates, T tokens of such a row.

A micro-batch has, beside `tokens`, `positions`, `segment_ids` and `loss_mask`
[R, S] of the prompts (packing.py):

  answer_tokens, answer_targets, answer_offsets, answer_segment_ids  [R*Q, T]
                  what is read, what should follow, places within an answer
                  from 0, and which answers are apart (0 = padding)
  answer_places   [R*Q, T] column of each token's answer, M = padding
  answer_first    [R, M] the first token of each answer
  answer_lengths  [R, M] its tokens, 0 = there is none
  answer_ends     [R, M] place of the last token read of each answer, among the
                  Q*T of its prompt
  answer_names    [R, M] which answer each is
  answer_right    [R] the column of the right one
  samples         [R] the number of each prompt's sample, -1 = there is none

and where prompts have pieces, such as titles, that are read apart at first:

  prompt_pieces, prompt_places, prompt_parts  [R, S] which text a token is of,
                  its place there, and the piece's number from 1 (0 = padding)
"""

import bisect
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from absl import logging

from bigrec_jax import errors
from bigrec_jax.data.text import packing

_STEP = 16  # Widths of rows are multiples of it.
_WIDE = 256  # Tokens of a row: each sees its own row's keys.
# Rows of a prompt's candidates, and of each first token, length, last place.
_Laid = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
  """N samples as tokens.

  Attributes:
    prompts: numbers of samples -> their prompts' tokens.
    answers: tokens of each answer, at least one.
    candidates: numbers of samples -> [n, M] places in `answers`, no place
      twice in a row.
    right: [N] the place of each sample's right answer.
    sizes: candidates of a sample: M.
    pieces: numbers of samples -> of each prompt its pieces, each the number of
      a text and how many tokens it has; None = prompts have none.
  """

  prompts: Callable[[Sequence[int]], list[list[int]]]
  answers: Sequence[Sequence[int]]
  candidates: Callable[[Sequence[int]], np.ndarray]
  right: np.ndarray
  sizes: int
  pieces: Callable[[Sequence[int]], list[list[tuple[int, int]]]] | None = None


class Layout:
  """Makes micro-batches of given samples; a `source.Layout`."""

  def __init__(
    self,
    asked: Asked,
    rows: int,
    lengths: Sequence[int],
    pad_id: int,
    name: Callable[[int], str],
  ):
    """Decides the shape of the candidates' rows.

    Args:
      asked: the samples.
      rows: R.
      lengths: S that may be compiled, ascending; of a longer prompt the last
        tokens are kept.
      pad_id: token id of padding.
      name: of a sample, for messages.

    Raises:
      UserError: an answer has no token.
    """
    self._asked, self._rows, self._lengths = asked, rows, list(lengths)
    self._pad_id, self._name = pad_id, name
    self._told = False
    read = np.array([len(answer) - 1 for answer in asked.answers])
    if read.min() < 0:
      raise errors.UserError(
        f"answer {int(read.argmin())}: no token found, some expected"
      )
    self._read = read
    every = asked.sizes == len(asked.answers)
    most = int(np.sort(read)[-asked.sizes :].sum())
    longest = int(read.max())
    self.width = max(_up(longest), min(_up(most), _WIDE))
    self._common: _Laid | None = None
    if every:  # All samples have the same candidates.
      packed = self._packed(np.arange(len(read)))
      self.rows_each = max(len(packed), 1)
      self._common = self._of_one(np.arange(len(read)), packed)
    else:
      # A row is begun when an answer fits into none: all but one are so full.
      full = self.width - longest + 1
      fits = most <= self.width
      self.rows_each = 1 if fits else most // full + 1

  def __call__(self, numbers: Sequence[int]) -> list[packing.MicroBatch]:
    """Returns the micro-batches of samples, those of long prompts first."""
    prompts = [
      self._cut(n, ids)
      for n, ids in zip(numbers, self._asked.prompts(numbers), strict=True)
    ]
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    return [
      self._batch(
        [numbers[i] for i in order[at : at + self._rows]],
        [prompts[i] for i in order[at : at + self._rows]],
      )
      for at in range(0, len(order), self._rows)
    ]

  def _cut(self, number: int, ids: list[int]) -> list[int]:
    most = self._lengths[-1]
    if len(ids) > most and not self._told:
      self._told = True
      logging.warning(
        "%s: the prompt has %d tokens, of which the last %d are read"
        " (train.max_length); more such rows are not told",
        self._name(number),
        len(ids),
        most,
      )
    return ids[-most:]

  def _batch(
    self, numbers: Sequence[int], prompts: Sequence[list[int]]
  ) -> packing.MicroBatch:
    longest = max(map(len, prompts))
    length = self._lengths[bisect.bisect_left(self._lengths, longest)]
    rows, size = self._rows, self._asked.sizes
    tokens = np.full((rows, length), self._pad_id, np.int32)
    segments = np.zeros((rows, length), np.int32)
    right = np.zeros(rows, np.int32)
    samples = np.full(rows, -1, np.int32)
    samples[: len(numbers)] = numbers
    shape = rows, self.rows_each, self.width
    laid = np.zeros((5, *shape), np.int32)
    laid[4] = size
    first, lengths, ends, which = np.zeros((4, rows, size), np.int32)
    candidates = self._asked.candidates(numbers)
    for row, (number, prompt) in enumerate(zip(numbers, prompts, strict=True)):
      tokens[row, : len(prompt)] = prompt
      segments[row, : len(prompt)] = 1
      own = candidates[row]
      (right[row],) = np.flatnonzero(own == self._asked.right[number])
      common = self._common
      which[row] = own
      laid[:, row], first[row], lengths[row], ends[row] = (
        self._of_one(own, self._packed(own)) if common is None else common
      )
    places = np.arange(length, dtype=np.int32)[None] * segments
    names = ("tokens", "targets", "offsets", "segment_ids", "places")
    flat = laid.reshape(5, -1, self.width)
    return {
      "tokens": tokens,
      "positions": places,
      "segment_ids": segments,
      "loss_mask": np.zeros_like(tokens),
      **{f"answer_{name}": x for name, x in zip(names, flat, strict=True)},
      "answer_first": first,
      "answer_lengths": lengths,
      "answer_ends": ends,
      "answer_names": which,
      "answer_right": right,
      "samples": samples,
      **self._pieces(numbers, tokens.shape),
    }

  def _pieces(
    self, numbers: Sequence[int], shape: tuple[int, ...]
  ) -> packing.MicroBatch:
    """Lays out which pieces the tokens of prompts [R, S] are of."""
    if self._asked.pieces is None:
      return {}
    laid = np.zeros((3, *shape), np.int32)
    for row, own in enumerate(self._asked.pieces(numbers)):
      texts, counts = np.array(own, np.int32).T
      places = np.concatenate([np.arange(count) for count in counts])
      parts = np.repeat(np.arange(1, len(own) + 1), counts)
      found = np.stack([np.repeat(texts, counts), places, parts])
      found = found[:, -self._lengths[-1] :]
      laid[:, row, : found.shape[1]] = found
    names = ("prompt_pieces", "prompt_places", "prompt_parts")
    return dict(zip(names, laid, strict=True))

  def _packed(self, own: np.ndarray) -> list[list[int]]:
    """Returns which columns share a row; answers of one token need none."""
    read = self._read[own]
    columns = np.flatnonzero(read)
    return [
      columns[row].tolist()
      for row in packing.best_fit(read[columns].tolist(), self.width)
    ]

  def _of_one(self, own: np.ndarray, packed: list[list[int]]) -> _Laid:
    """Lays out the candidates [M] of one prompt.

    Returns:
      [5, Q, T], and [M] each: first tokens, lengths, places of the last.
    """
    answers = [self._asked.answers[place] for place in own.tolist()]
    laid = np.zeros((5, self.rows_each, self.width), np.int32)
    laid[4] = self._asked.sizes
    ends = np.zeros(len(own), np.int32)
    for row, columns in enumerate(packed):
      start = 0
      for segment, column in enumerate(columns, 1):
        ids = answers[column]
        end = start + len(ids) - 1
        part = laid[:, row, start:end]
        part[0], part[1] = ids[:-1], ids[1:]
        part[2] = np.arange(end - start)
        part[3], part[4] = segment, column
        ends[column] = row * self.width + end - 1
        start = end
    first = np.array([ids[0] for ids in answers], np.int32)
    lengths = np.array([len(ids) for ids in answers], np.int32)
    return laid, first, lengths, ends


def drawn(
  right: np.ndarray, count: int, size: int, seed: int, numbers: Sequence[int]
) -> np.ndarray:
  """Returns candidates [n, M]: the right answer and others, drawn once.

  A sample's others depend on the seed and its number alone.

  Args:
    right: [N] places of the right answers.
    count: answers in all.
    size: M, at most `count`.
    seed: of the draw.
    numbers: of the samples.
  """
  found = np.zeros((len(numbers), size), np.int32)
  for row, number in zip(found, numbers, strict=True):
    rng = np.random.default_rng([seed, int(number)])
    others = rng.choice(count - 1, size - 1, replace=False, shuffle=False)
    own = int(right[number])
    row[0] = own
    row[1:] = others + (others >= own)
  return found


def _up(length: int) -> int:
  """Returns the next width, at least one step."""
  return max(-(-length // _STEP), 1) * _STEP
