"""Answers side by side in rows: how many candidates of a user are one pass.

An answer of n tokens is n - 1 tokens to read: the prompt predicts the first,
and nothing is read behind the last. A row belongs to one user.

Letters: M answers of a user, R rows of a call, T tokens of a row.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

# Tokens of a row. Each sees its own row's keys, so long rows cost more; short
# ones leave more places empty behind their answers, and longer answers need
# rows, and calls, of their own: few, so these are smaller.
_ROW = 128
_WIDE = 4


class Call(NamedTuple):
  """Rows that one call of the program reads.

  Attributes:
    arrays: tokens, targets, offsets and segments, each [R, T] int32, and
      owners [R] int32.
    places: [R, T] user * M + answer of each token, -1 = padding.
  """

  arrays: tuple[np.ndarray, ...]
  places: np.ndarray


class _Row(NamedTuple):
  owner: int
  user: int
  answers: list[int]  # Columns of the user's candidates.


def calls(
  answers: Sequence[Sequence[int]],
  candidates: np.ndarray,
  shards: int,
  tokens: int,
) -> Iterator[Call]:
  """Yields calls that together hold every candidate of a group of users.

  Args:
    answers: token ids.
    candidates: [n, M] places in `answers`, -1 = none. User k is number
      k // shards of shard k % shards.
    shards: of the rows.
    tokens: R * T of a shard in a call, about.
  """
  lengths = np.array([0, *(len(ids) - 1 for ids in answers)])
  read = lengths[np.asarray(candidates) + 1]  # [n, M]; 0 = nothing to read.
  widths = -(-read // _ROW) * _ROW
  for width in np.unique(widths[widths > 0]).tolist():
    rows: list[list[_Row]] = [[] for _ in range(shards)]
    for user, own in enumerate(widths):
      columns = np.flatnonzero(own == width)
      for packed in _pack(read[user, columns], width):
        held = columns[packed].tolist()
        rows[user % shards].append(_Row(user // shards, user, held))
    size = max(1, tokens // width // (1 if width == _ROW else _WIDE))
    for start in range(0, max(map(len, rows)), size):
      part = [own[start : start + size] for own in rows]
      yield _call(part, size, width, answers, candidates)


def _pack(lengths: np.ndarray, width: int) -> list[list[int]]:
  """Returns which texts share a row: the longest first, where they fit first.

  Args:
    lengths: [n] tokens of each, at most `width`.
    width: of a row.
  """
  rows: list[list[int]] = []
  room: list[int] = []
  for text in np.argsort(-lengths, kind="stable").tolist():
    length = int(lengths[text])
    fits = (row for row, left in enumerate(room) if length <= left)
    row = next(fits, len(rows))
    if row == len(rows):
      rows.append([])
      room.append(width)
    rows[row].append(text)
    room[row] -= length
  return rows


def _call(
  parts: Sequence[Sequence[_Row]],
  size: int,
  width: int,
  answers: Sequence[Sequence[int]],
  candidates: np.ndarray,
) -> Call:
  """Lays out rows of every shard, `size` rows each."""
  shape = len(parts) * size, width
  tokens, targets, offsets, segments = np.zeros((4, *shape), np.int32)
  owners = np.zeros(shape[0], np.int32)
  places = np.full(shape, -1, np.int64)
  most = candidates.shape[1]
  for shard, part in enumerate(parts):
    for number, row in enumerate(part):
      at, start = shard * size + number, 0
      owners[at] = row.owner
      for segment, column in enumerate(row.answers, 1):
        ids = answers[candidates[row.user, column]]
        end = start + len(ids) - 1
        where = at, slice(start, end)
        tokens[where], targets[where] = ids[:-1], ids[1:]
        offsets[where] = np.arange(end - start)
        segments[where] = segment
        places[where] = row.user * most + column
        start = end
  return Call((tokens, targets, offsets, segments, owners), places)
