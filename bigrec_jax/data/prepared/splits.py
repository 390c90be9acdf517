"""History windows, chronological splits and the published samples.

A window is a target and the items before it. The windows of a user's
sequence, and the split of all windows by target time, are those of BIGRec
data/{movie,game}/process.ipynb; so are the samples (BIGRec train.py).
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from bigrec_jax.data.formats import interactions as interactions_lib

SPLITS = ("train", "valid", "test")

# Which positions i of a user's n items become targets. The published rules
# have 10 where H stands: the longest history.
RULES = {
  "full": "i >= H (Movie: only full histories)",
  "tail": "i >= min(H, n - 1) (Game: short users give their last item)",
  "every": "i >= 1 (all targets with a history)",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Timeline:
  """All interactions, sorted by user, then time; ties in file order.

  Attributes:
    user: [n] int64.
    item: [n] int32, catalogue rows.
    timestamp: [n] int64.
    index: [n] int32, position within the user's own sequence.
    length: [n] int32, length of that sequence.
    rating: [n] float32, NaN where it isn't known; None without ratings.
  """

  user: np.ndarray
  item: np.ndarray
  timestamp: np.ndarray
  index: np.ndarray
  length: np.ndarray
  rating: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.user)


def timeline(log: interactions_lib.Interactions) -> Timeline:
  """Sorts a log; numpy's lexsort is stable, so ties stay in file order."""
  order = np.lexsort((log.timestamp, log.user))
  user = log.user[order]
  sizes = np.bincount(user)
  starts = np.cumsum(sizes) - sizes
  return Timeline(
    user,
    log.item[order],
    log.timestamp[order],
    (np.arange(len(user)) - starts[user]).astype(np.int32),
    sizes[user].astype(np.int32),
    None if log.rating is None else log.rating[order],
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
  """The windows of one split, as places in a timeline.

  A window is its target's place; histories are cut out when asked for, so
  9.3 million windows take 8 bytes each.
  """

  timeline: Timeline
  targets: np.ndarray  # [N] int64, places of the targets.
  max_history: int

  def __len__(self) -> int:
    return len(self.targets)

  def columns(self, rows: np.ndarray | slice) -> dict[str, np.ndarray]:
    """Returns the columns of some windows.

    Returns:
      history [B, H] int32 (oldest first, padded at the right with -1), target
      [B] int32, user [B] int64, timestamp [B] int64; with ratings also
      history_rating [B, H] float32 (padded with NaN) and rating [B] float32.
    """
    place = self.targets[rows]  # [B]
    size = np.minimum(self.timeline.index[place], self.max_history)  # [B]
    column = np.arange(self.max_history)[None, :]  # [1, H]
    items = np.minimum((place - size)[:, None] + column, place[:, None])
    inside = column < size[:, None]
    history = np.where(inside, self.timeline.item[items], np.int32(-1))
    found = {
      "history": history.astype(np.int32),
      "target": self.timeline.item[place],
      "user": self.timeline.user[place],
      "timestamp": self.timeline.timestamp[place],
    }
    rating = self.timeline.rating
    if rating is not None:
      found["history_rating"] = np.where(
        inside, rating[items], np.float32(np.nan)
      )
      found["rating"] = rating[place]
    return found


def chronological(
  line: Timeline, rule: str, max_history: int
) -> dict[str, Windows]:
  """Splits all windows 8:1:1 by target time.

  The sort is global and stable: windows with the same target time stay in the
  order of users, then of positions. The boundaries are int(0.8 n) and
  int(0.9 n), so rows of one time stamp may fall on both sides.
  """
  first = {
    "full": np.full(len(line), max_history),
    "tail": np.minimum(max_history, line.length - 1),
    "every": np.ones(len(line), np.int64),
  }[rule]
  targets = np.flatnonzero(line.index >= first)
  targets = targets[np.argsort(line.timestamp[targets], kind="stable")]
  count = len(targets)
  bounds = [0, int(count * 0.8), int(count * 0.9), count]
  return {
    split: Windows(line, targets[bounds[i] : bounds[i + 1]], max_history)
    for i, split in enumerate(SPLITS)
  }


def leave_one_out(line: Timeline, max_history: int) -> dict[str, Windows]:
  """Last item = test target, second last = valid, all before = train.

  Train windows are every position from the second item on. Rows are in the
  order of users.
  """
  left = line.length - line.index  # 1 at the last item.
  places = {
    "train": (left >= 3) & (line.index >= 1),
    "valid": left == 2,
    "test": left == 1,
  }
  return {
    split: Windows(line, np.flatnonzero(places[split]), max_history)
    for split in SPLITS
  }


def in_train(line: Timeline, windows: Mapping[str, Windows]) -> np.ndarray:
  """Returns [n] bool: the interactions that are known when training.

  These are the targets of train windows and, of the interactions that are no
  target at all (the first items of a user), those not later than the last
  train target. A valid or test target is never among them.
  """
  train = windows["train"].targets
  known = line.timestamp <= line.timestamp[train].max()
  for split in ("valid", "test"):
    known[windows[split].targets] = False
  known[train] = True
  return known


def in_train_by_position(line: Timeline) -> np.ndarray:
  """Returns [n] bool: all but the last two items of each user."""
  return line.length - line.index >= 3


def evaluation_rows(available: int, count: int, seed: int) -> np.ndarray:
  """Returns the rows of pandas' DataFrame.sample(n=count, random_state=seed).

  pandas draws from numpy's legacy generator; checked with pandas 3.1. With
  fewer rows than `count`, or count -1, all rows in their order.
  """
  if count == -1 or count > available:
    return np.arange(available, dtype=np.int64)
  generator = np.random.RandomState(seed)
  return generator.choice(available, size=count, replace=False).astype(np.int64)


def train_rows(available: int, count: int, seed: int) -> np.ndarray:
  """Returns the rows of the published few-shot sample, in its order.

  `datasets.Dataset.shuffle(seed).select(range(count)).shuffle(seed)`: BIGRec
  train.py shuffles twice with one seed (quirk 6), and so it does with all
  rows (count -1). Checked with datasets 5.2, whose shuffle is numpy's
  default_rng(seed).permutation.
  """
  rows = np.random.default_rng(seed).permutation(available)
  if count != -1:
    rows = rows[:count]
  return rows[np.random.default_rng(seed).permutation(len(rows))].astype(
    np.int64
  )
