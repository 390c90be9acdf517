"""Encoded examples -> micro-batches of static shape.

Letters: R rows of a micro-batch, T its length. A micro-batch is a dict of
int32 [R, T] arrays: `tokens`, `positions` (restart in each example),
`segment_ids` (0 = padding, 1.. = example within the row) and `loss_mask` (1
where the token is a label). Rows are padded at the right; a micro-batch that
lacks rows is filled with empty ones.

Where a loss needs vectors of a whole step (views.py), `pools` and `groups` say
of each token to which vector it belongs, and which targets aren't told apart.

Where examples share their beginning (shared_header.py), rows hold only their
own parts, positions go on from the header's, and `header` and `header_mask`,
int32 [C] each, are the header's tokens and labels.

Where texts have soft tokens (source.py), `soft_places` and `soft_items`, int32
[R, S], are their places in the rows and what they stand for; T = no place. S
is a part of T that holds those of the fullest row.
"""

import bisect
from collections.abc import Sequence

import numpy as np

from bigrec_jax.data.text import encoding

MicroBatch = dict[str, np.ndarray]
ROWLESS = ("header", "header_mask")  # Equal for all rows and processes.
POOLS = ("pools", "groups")


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
  """Packs by best-fit decreasing.

  The longest item goes first, each into the fullest row that still holds it.

  Args:
    lengths: of each item, 1..capacity.
    capacity: of each row.

  Returns:
    The item numbers of each row; equal lengths stay in order.

  Raises:
    ValueError: an item is longer than a row.
  """
  if max(lengths, default=0) > capacity:
    raise ValueError(f"{max(lengths)=} exceeds {capacity=}")
  rows: list[list[int]] = []
  free: list[tuple[int, int]] = []  # (room left, row), ascending.
  order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
  for item in order.tolist():
    length = lengths[item]
    spot = bisect.bisect_left(free, (length, -1))
    if spot == len(free):
      rows.append([])
      room, row = capacity, len(rows) - 1
    else:
      room, row = free.pop(spot)
    rows[row].append(item)
    if room > length:
      bisect.insort(free, (room - length, row))
  return rows


def fill(
  rows: Sequence[Sequence[encoding.Encoded]],
  num_rows: int,
  length: int,
  pad_id: int,
  first_position: int = 0,
) -> MicroBatch:
  """Lays examples into one micro-batch [num_rows, length].

  Args:
    rows: the examples of each row, at most `num_rows` of them.
    num_rows: R.
    length: T.
    pad_id: token id where there is no example.
    first_position: of every example.
  """
  shape = (num_rows, length)
  batch = {
    "tokens": np.full(shape, pad_id, np.int32),
    "positions": np.zeros(shape, np.int32),
    "segment_ids": np.zeros(shape, np.int32),
    "loss_mask": np.zeros(shape, np.int32),
  }
  if any(example.pools is not None for row in rows for example in row):
    batch |= {name: np.zeros(shape, np.int32) for name in POOLS}
  for r, row in enumerate(rows):
    start = 0
    for segment, example in enumerate(row, start=1):
      end = start + len(example.tokens)
      batch["tokens"][r, start:end] = example.tokens
      batch["positions"][r, start:end] = first_position + np.arange(end - start)
      batch["segment_ids"][r, start:end] = segment
      batch["loss_mask"][r, start + example.first_label : end] = 1
      if example.pools is not None:
        batch["pools"][r, start:end] = example.pools
        batch["groups"][r, start:end] = example.group
      batch["loss_mask"][r, start + example.places] = 0
      start = end
  return batch | _soft(rows, num_rows, length)


def _soft(
  rows: Sequence[Sequence[encoding.Encoded]], num_rows: int, length: int
) -> MicroBatch:
  """Returns the soft tokens of rows; nothing where no text has any."""
  # Those that keep their own token count as well: a step without soft tokens
  # among others with some is of one shape with them.
  most = max((sum(len(e.places) for e in row) for row in rows), default=0)
  if not most:
    return {}
  shape = num_rows, _part(most, length)
  places, items = np.full(shape, length, np.int32), np.zeros(shape, np.int32)
  for r, row in enumerate(rows):
    start = used = 0
    for example in row:
      real = example.items >= 0
      end = used + int(real.sum())
      places[r, used:end] = start + example.places[real]
      items[r, used:end] = example.items[real]
      start, used = start + len(example.tokens), end
  return {"soft_places": places, "soft_items": items}


def _part(most: int, length: int) -> int:
  """Returns the least of T/8, T/4, T/2 and T that is `most` or more.

  Few shapes are few programs, and little is projected that is not there.
  """
  parts = (-(-length // 8), -(-length // 4), -(-length // 2), length)
  return next(size for size in parts if most <= size)


def packed(
  examples: Sequence[encoding.Encoded],
  num_rows: int,
  max_length: int,
  pad_id: int,
  first_position: int = 0,
) -> list[MicroBatch]:
  """Returns micro-batches [num_rows, max_length], several examples a row."""
  rows = best_fit([len(e.tokens) for e in examples], max_length)
  return [
    fill(
      [[examples[i] for i in row] for row in rows[at : at + num_rows]],
      num_rows,
      max_length,
      pad_id,
      first_position,
    )
    for at in range(0, len(rows), num_rows)
  ]


def bucketed(
  examples: Sequence[encoding.Encoded],
  num_rows: int,
  max_length: int,
  buckets: Sequence[int],
  pad_id: int,
  first_position: int = 0,
) -> list[MicroBatch]:
  """Returns micro-batches [num_rows, bucket], one example a row.

  Examples are sorted by length, the longest first, so that the rows missing
  at the end are short ones.

  Args:
    examples: of one optimizer step.
    num_rows: R.
    max_length: the largest bucket; longer entries of `buckets` are left out.
    buckets: lengths T that may be compiled.
    pad_id: token id of padding.
    first_position: of every example.
  """
  lengths = bucket_lengths(buckets, max_length)
  order = sorted(range(len(examples)), key=lambda i: -len(examples[i].tokens))
  batches = []
  for at in range(0, len(order), num_rows):
    rows = [[examples[i]] for i in order[at : at + num_rows]]
    longest = len(rows[0][0].tokens)
    length = lengths[bisect.bisect_left(lengths, longest)]
    batches.append(fill(rows, num_rows, length, pad_id, first_position))
  return batches


def bucket_lengths(buckets: Sequence[int], max_length: int) -> list[int]:
  """Returns the lengths in use, ascending, `max_length` the last."""
  return sorted({b for b in buckets if 0 < b < max_length} | {max_length})


def shard_rows(batch: MicroBatch, index: int, count: int) -> MicroBatch:
  """Returns the rows of one of `count` processes, in process order."""
  rows = len(batch["tokens"])
  if rows % count:
    raise ValueError(f"{rows=} do not divide over {count=} processes")

  def own(array: np.ndarray) -> np.ndarray:
    share = len(array) // count
    return array[share * index : share * (index + 1)]

  return {k: v if k in ROWLESS else own(v) for k, v in batch.items()}


def count_tokens(batch: MicroBatch) -> tuple[int, int]:
  """Returns the real tokens in the rows, and those the header stands for."""
  own = sum(
    int((ids > 0).sum())
    for name, ids in batch.items()
    if name.endswith("segment_ids")
  )
  if "header" not in batch:
    return own, 0
  examples = int(batch["segment_ids"].max(axis=1).sum())
  return own, examples * (len(batch["header"]) - 1)
