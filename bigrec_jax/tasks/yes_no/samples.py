"""What TALLRec asks about: a history split by like, and a target.

Both published ways of making samples are built from the prepared windows.

  last_windows  every window with a full history, users in the order of the
                raw file, each in time order; of all of them the last ones,
                8:1:1 in that order (preprocess_movie.py: it takes the last
                10,000 lines of a list by user, so valid and test are other
                users than most of train's).
  users         one sample a user with enough items: the items shuffled, the
                last is the target, the first ones are the history; users
                8:1:1 at random (preprocess_book.py, whose split is unseeded).

Letters: N samples, H longest history.
"""

import dataclasses
import functools
import hashlib
import random

import numpy as np

from bigrec_jax import errors
from bigrec_jax.config import YesNoConfig
from bigrec_jax.data.prepared import examples as examples_lib, splits
from bigrec_jax.workdir import fingerprints, paths as paths_lib

_PAD = -1
_ITEM_SEED = 42  # Published, of every user's shuffle.


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
  """N samples of a split.

  Attributes:
    split: train, valid or test.
    rows: [N] int64, numbers in the whole split.
    user: [N] int64.
    history: [N, H] int32, catalogue rows, padded at the right with -1.
    liked: [N, H] bool.
    target: [N] int32.
    label: [N] bool, whether the target is liked.
  """

  split: str
  rows: np.ndarray
  user: np.ndarray
  history: np.ndarray
  liked: np.ndarray
  target: np.ndarray
  label: np.ndarray

  def __len__(self) -> int:
    return len(self.target)

  @functools.cached_property
  def fingerprint(self) -> str:
    """Names split, items and likes in their order."""
    digest = hashlib.sha256()
    for column in (
      self.rows,
      self.history,
      self.liked,
      self.target,
      self.label,
    ):
      digest.update(repr((column.shape, column.dtype)).encode())
      digest.update(np.ascontiguousarray(column))
    return fingerprints.of_value([self.split, digest.hexdigest()])

  def take(self, chosen: np.ndarray | slice) -> "Samples":
    """Returns the samples at some positions, in the order given."""
    return dataclasses.replace(
      self,
      **{
        field.name: getattr(self, field.name)[chosen]
        for field in dataclasses.fields(self)
        if field.name != "split"
      },
    )


def load(
  paths: paths_lib.Paths, config: YesNoConfig, seed: int
) -> dict[str, Samples]:
  """Returns all samples by split.

  Args:
    paths: the workdir, with prepared data that have ratings.
    config: the section.
    seed: of the order of users (`users` only).

  Raises:
    UserError: a split would be empty.
  """
  windows = _Windows.load(paths)
  if config.split == "users":
    found = _by_user(windows, config, seed)
  else:
    found = _last_windows(windows, config)
  count = len(found)
  bounds = [0, int(count * 0.8), int(count * 0.9), count]
  parts = {}
  for number, split in enumerate(splits.SPLITS):
    part = found.take(slice(bounds[number], bounds[number + 1]))
    parts[split] = dataclasses.replace(
      part, split=split, rows=np.arange(len(part), dtype=np.int64)
    )
  if not all(len(part) for part in parts.values()):
    shown = ", ".join(f"{name} {len(part)}" for name, part in parts.items())
    raise errors.UserError(
      f"config.task.yes_no: samples found: {shown}; at least one in each split"
      " expected (are there users with a full history and ratings?)"
    )
  return parts


@dataclasses.dataclass(frozen=True, eq=False)
class _Windows:
  """All prepared windows, by user, then in the order of the user's items."""

  user: np.ndarray  # [W]
  history: np.ndarray  # [W, H]
  history_rating: np.ndarray  # [W, H]
  target: np.ndarray  # [W]
  rating: np.ndarray  # [W]

  @classmethod
  def load(cls, paths: paths_lib.Paths) -> "_Windows":
    """Puts the three prepared splits together again."""
    parts = []
    for split in splits.SPLITS:
      part = examples_lib.load_examples(paths, split, -1, 0)
      # In file order: splits are cut from one stable sort by time, so that
      # within a user that is the order of the items, ties included.
      parts.append(part.take(np.argsort(part.rows, kind="stable")))
    names = ("user", "history", "history_rating", "target", "rating")
    columns = {
      name: np.concatenate([getattr(part, name) for part in parts])
      for name in names
    }
    order = np.argsort(columns["user"], kind="stable")
    return cls(**{name: column[order] for name, column in columns.items()})


def _last_windows(windows: _Windows, config: YesNoConfig) -> Samples:
  full = (windows.history >= 0).all(axis=1) & ~np.isnan(windows.rating)
  chosen = np.flatnonzero(full)
  if config.records:
    chosen = chosen[-config.records :]
  history = windows.history[chosen].copy()
  ratings = windows.history_rating[chosen]
  # What has no rating is neither liked nor disliked.
  history, liked = _closed_up(history, ratings, config.threshold)
  return Samples(
    "",
    np.arange(len(chosen)),
    windows.user[chosen],
    history,
    liked,
    windows.target[chosen],
    windows.rating[chosen] > config.threshold,
  )


def _closed_up(
  history: np.ndarray, ratings: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
  """Drops items without a rating; returns items and likes, padded again."""
  known = (history >= 0) & ~np.isnan(ratings)
  order = np.argsort(~known, axis=1, kind="stable")
  history = np.where(known, history, _PAD)
  liked = known & (ratings > threshold)
  return (
    np.take_along_axis(history, order, axis=1),
    np.take_along_axis(liked, order, axis=1),
  )


def _by_user(windows: _Windows, config: YesNoConfig, seed: int) -> Samples:
  starts = np.flatnonzero(np.diff(windows.user, prepend=-1))
  ends = np.append(starts[1:], len(windows.user))
  width = windows.history.shape[1]
  users, history, liked, target, label = [], [], [], [], []
  for start, end in zip(starts, ends, strict=True):
    items, ratings = _log(windows, start, end)
    if len(items) < config.min_items:
      continue
    order = list(range(len(items)))
    random.Random(_ITEM_SEED).shuffle(order)
    items, likes = items[order], ratings[order] > config.threshold
    row = np.full(width, _PAD, np.int32)
    like = np.zeros(width, np.bool_)
    kept = min(len(items) - 1, width)
    row[:kept], like[:kept] = items[:kept], likes[:kept]
    users.append(windows.user[start])
    history.append(row)
    liked.append(like)
    target.append(items[-1])
    label.append(likes[-1])
  count = len(users)
  found = Samples(
    "",
    np.arange(count),
    np.array(users, np.int64),
    np.array(history, np.int32).reshape(count, width),
    np.array(liked, np.bool_).reshape(count, width),
    np.array(target, np.int32),
    np.array(label, np.bool_),
  )
  order = list(range(count))
  random.Random(seed).shuffle(order)
  return found.take(np.array(order, np.int64))


def _log(
  windows: _Windows, start: int, end: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns a user's rated items: the first history, then all targets."""
  first = windows.history[start] >= 0
  items = np.concatenate(
    [windows.history[start][first], windows.target[start:end]]
  )
  ratings = np.concatenate(
    [windows.history_rating[start][first], windows.rating[start:end]]
  )
  known = ~np.isnan(ratings)
  return items[known], ratings[known]
