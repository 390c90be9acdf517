"""Training rows of the CF models, cut from the examples of a split (numpy).

Two forms of the same interactions:

  windows  one row per example: the history, then its target.
               items [17 4 9 | 3], length 3   -> one prediction, of item 3
  chains   one row per run of examples that continue each other, so that a
           network predicting at every position sees each target once.
               (17 4 | 9), (17 4 9 | 3)       -> items [17 4 9 3], length 3
"""

import dataclasses

import numpy as np

from bigrec_jax.data.prepared.examples import Examples

PAD = -1  # In host arrays; on the device it is the row after the last item.


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
  """Item sequences for training.

  Attributes:
    items: [N, L + 1] int32, catalogue rows, oldest first, padded at the right
      with -1. Position t is the input that predicts position t + 1.
    length: [N] int32, how many positions are inputs (1..L; 0 for an empty
      history whose only item is the target).
    first: [N] int32, the first position whose prediction counts; what comes
      before is there as context only. Used where every position predicts.
  """

  items: np.ndarray
  length: np.ndarray
  first: np.ndarray

  def __len__(self) -> int:
    return len(self.items)

  @property
  def max_length(self) -> int:
    """L, the most inputs a row holds."""
    return self.items.shape[1] - 1

  @property
  def targets(self) -> np.ndarray:
    """[N] int32, the last item of each row."""
    return self.items[np.arange(len(self)), self.length]


def lengths(history: np.ndarray) -> np.ndarray:
  """Returns how many items each history [N, H] holds, [N] int32."""
  return (history >= 0).sum(axis=1, dtype=np.int32)


def newest(history: np.ndarray, most: int) -> np.ndarray:
  """Returns the newest `most` items of each history [N, H], [N, most]."""
  number, width = history.shape
  if width <= most:
    return np.pad(history, ((0, 0), (0, most - width)), constant_values=-1)
  start = np.maximum(lengths(history) - most, 0)
  return np.take_along_axis(history, start[:, None] + np.arange(most), axis=1)


def only_below(history: np.ndarray, size: int) -> np.ndarray:
  """Returns histories [N, H] without the rows from `size` on."""
  kept = (history >= 0) & (history < size)
  order = np.argsort(~kept, axis=1, kind="stable")
  return np.take_along_axis(np.where(kept, history, PAD), order, axis=1)


def windows(examples: Examples) -> Rows:
  """Returns one row per example."""
  length = lengths(examples.history)
  number = len(examples)
  items = np.full((number, examples.history.shape[1] + 1), PAD, np.int32)
  items[:, :-1] = examples.history
  items[np.arange(number), length] = examples.target
  return Rows(items, length, np.maximum(length - 1, 0))


def _continues(history: np.ndarray, target: np.ndarray) -> np.ndarray:
  """Returns [N] bool: row n's history is row n-1's history and target."""
  number, width = history.shape
  length = lengths(history)
  extended = np.full((number, width + 1), PAD, np.int32)
  extended[:, :-1] = history
  extended[np.arange(number), length] = target
  # A full window drops its oldest item when the next one enters.
  full = (length == width)[:, None]
  after = np.where(full, extended[:, 1:], extended[:, :-1])
  same = np.zeros(number, bool)
  same[1:] = (after[:-1] == history[1:]).all(axis=1)
  return same


def sequences(examples: Examples) -> list[np.ndarray]:
  """Joins windows that continue each other into whole sequences.

  Rows of one user are taken in the order of the split (time). A gap, as a
  few-shot sample leaves, starts a new sequence.

  Returns:
    int32 arrays, oldest item first.
  """
  order = np.lexsort((examples.rows, examples.user))
  user = examples.user[order]
  history, target = examples.history[order], examples.target[order]
  joined = _continues(history, target)
  joined[1:] &= user[1:] == user[:-1]
  starts = np.flatnonzero(~joined)
  ends = np.append(starts[1:], len(order))
  length = lengths(history)
  return [
    np.concatenate([history[a, : length[a]], target[a:b]])
    for a, b in zip(starts, ends, strict=True)
  ]


def chains(examples: Examples, max_length: int) -> Rows:
  """Returns rows in which every position predicts the next.

  A sequence longer than `max_length + 1` is cut from its end into pieces that
  overlap by half: every target counts once, and none is predicted from less
  than half a window unless its history is that short.
  """
  half = max_length // 2
  pieces, first = [], []
  for sequence in sequences(examples):
    end = len(sequence)
    while end > 1:
      start = max(0, end - max_length - 1)
      pieces.append(sequence[start:end])
      first.append(half if start else 0)
      end = start + 1 + half if start else 0
  items = np.full((len(pieces), max_length + 1), PAD, np.int32)
  for row, piece in zip(items, pieces, strict=True):
    row[: len(piece)] = piece
  length = np.array([len(piece) - 1 for piece in pieces], np.int32)
  return Rows(items, length, np.array(first, np.int32))


def _pairs(examples: Examples) -> np.ndarray:
  """Returns the distinct (user, item) pairs, [n, 2] int64, sorted."""
  both = np.concatenate([examples.history, examples.target[:, None]], axis=1)
  # Rows of unknown users are users of their own.
  own = np.where(examples.user < 0, -2 - examples.rows, examples.user)
  users = np.repeat(own, both.shape[1])
  items = both.reshape(-1).astype(np.int64)
  return np.unique(np.stack([users, items], 1)[items >= 0], axis=0)


def seen_items(examples: Examples, *earlier: Examples) -> np.ndarray:
  """Returns what each user had before the target.

  Args:
    examples: the rows to rank.
    *earlier: splits before theirs; the user's items there count as seen too,
      since a history holds only the last few.

  Returns:
    [N, S] int32, padded at the right with -1; S is the longest list. The
    target itself is never in its row: it has to stay rankable.
  """
  number = len(examples)
  rows = np.repeat(np.arange(number), examples.history.shape[1])
  found = [np.stack([rows, examples.history.reshape(-1)], 1)]
  for split in earlier:
    pairs = _pairs(split)
    first = np.searchsorted(pairs[:, 0], examples.user, "left")
    count = np.searchsorted(pairs[:, 0], examples.user, "right") - first
    rows = np.repeat(np.arange(number), count)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    items = pairs[np.repeat(first, count) + within, 1]
    found.append(np.stack([rows, items], 1))
  merged = np.unique(np.concatenate(found).astype(np.int64), axis=0)
  row, item = merged[:, 0], merged[:, 1]
  keep = (item >= 0) & (item != examples.target[row])
  row, item = row[keep], item[keep]
  count = np.bincount(row, minlength=number)
  seen = np.full((number, max(1, count.max(initial=0))), PAD, np.int32)
  seen[
    row, np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
  ] = item
  return seen


def interactions(examples: Examples) -> np.ndarray:
  """Returns [n, 2] int64 distinct (user, item) pairs of a split."""
  return _pairs(examples)


def target_counts(examples: Examples, num_items: int) -> np.ndarray:
  """Returns how often each item is a target, [I] int64 (DROS propensity)."""
  return np.bincount(examples.target, minlength=num_items)
