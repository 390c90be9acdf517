"""The real data sets of ../shared/data as Examples, for the CF benchmarks.

Ids stay what the files say; nothing is written.
"""

import csv
import dataclasses
import gzip
import json
import pathlib

import numpy as np

from bigrec_jax.data.prepared.examples import Examples

SPLITS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """Examples of the three splits.

  Attributes:
    splits: by name.
    num_items: I; items are 0..I-1.
    popularity: [I] int64, interactions of each item in the train part.
    all_popularity: the same with the held-out interactions.
    seen: by split, [N, S] int32, everything before the target; -1 = padding.
  """

  splits: dict[str, Examples]
  num_items: int
  popularity: np.ndarray
  all_popularity: np.ndarray
  seen: dict[str, np.ndarray]


def _pad(lists: list, width: int) -> np.ndarray:
  out = np.full((len(lists), width), -1, np.int32)
  for row, items in zip(out, lists, strict=True):
    kept = items[-width:] if width else []
    row[: len(kept)] = kept
  return out


def _examples(split: str, windows: list, max_history: int) -> Examples:
  """Makes Examples of (user, items before, target) in the order of time."""
  users, before, targets = zip(*windows, strict=True)
  number = np.arange(len(windows))
  return Examples(
    split,
    number,
    _pad(before, max_history),
    np.array(targets, np.int32),
    np.array(users, np.int64),
    number,
  )


def leave_one_out(path: pathlib.Path, max_history: int) -> Dataset:
  """Reads `user item item ...` lines (ids from 1): last item = test."""
  windows = {split: [] for split in SPLITS}
  with gzip.open(path, "rt") as file:
    users = [[int(x) for x in line.split()] for line in file]
  for user, *items in users:
    items = [i - 1 for i in items]
    train = items[:-2]
    windows["train"] += [
      (user, train[:k], train[k]) for k in range(1, len(train))
    ]
    windows["valid"].append((user, train, items[-2]))
    windows["test"].append((user, items[:-1], items[-1]))
  every = np.concatenate([np.array(u[1:]) for u in users]) - 1
  known = np.concatenate([np.array(u[1:-2]) for u in users]) - 1
  num_items = int(every.max()) + 1
  seen = {}
  for split in ("valid", "test"):
    lists = [
      [i for i in set(before) if i != target]
      for _, before, target in windows[split]
    ]
    seen[split] = _pad(lists, max(map(len, lists)))
  return Dataset(
    {s: _examples(s, w, max_history) for s, w in windows.items()},
    num_items,
    np.bincount(known, minlength=num_items),
    np.bincount(every, minlength=num_items),
    seen,
  )


def _from_windows(windows: dict[str, list], num_items: int) -> Dataset:
  splits = {s: _examples(s, w, 10) for s, w in windows.items()}

  def count(names):
    # Each row adds its target; a user's first row brings its history too.
    total = np.zeros(num_items, np.int64)
    for name in names:
      np.add.at(total, splits[name].target, 1)
    return total

  return Dataset(splits, num_items, count(["train"]), count(SPLITS), {})


def game(folder: pathlib.Path) -> Dataset:
  """Reads game-dllm2rec: 17,408 games, histories of at most 10, no users."""
  files = {
    "train": "train_reconstructed.csv.gz",
    "valid": "val_data.csv.gz",
    "test": "test_data.csv.gz",
  }
  windows = {}
  for split, name in files.items():
    with gzip.open(folder / name, "rt") as file:
      windows[split] = [
        (-1, json.loads(r["seq"])[: int(r["len_seq"])], int(float(r["next"])))
        for r in csv.DictReader(file)
      ]
  return _from_windows(windows, 17408)


def toys_chronological(folder: pathlib.Path) -> Dataset:
  """Reads amazon-toys: BIGRec's protocol, 11,758 toys (ids from 1)."""
  files = {
    "train": "derived_train_full.csv.gz",
    "valid": "valid.csv.gz",
    "test": "test.csv.gz",
  }
  windows = {}
  for split, name in files.items():
    with gzip.open(folder / name, "rt") as file:
      windows[split] = []
      for row in csv.DictReader(file):
        items = [i - 1 for i in json.loads(row["item_ids"])]
        windows[split].append((int(row["user_id"]), items[:-1], items[-1]))
  return _from_windows(windows, 11758)


def movielens_small(folder: pathlib.Path) -> Dataset:
  """Reads ml-latest-small by the Movie protocol: full histories of 10."""
  with gzip.open(folder / "movies.csv.gz", "rt", encoding="utf-8") as file:
    movies = {row["movieId"]: n for n, row in enumerate(csv.DictReader(file))}
  with gzip.open(folder / "ratings.csv.gz", "rt") as file:
    rows = [
      (int(r["userId"]), int(r["timestamp"]), movies[r["movieId"]])
      for r in csv.DictReader(file)
    ]
  by_user: dict[int, list] = {}
  for user, time, item in rows:
    by_user.setdefault(user, []).append((time, item))
  found = []
  for user in sorted(by_user):
    events = sorted(by_user[user], key=lambda e: e[0])  # Stable.
    items = [item for _, item in events]
    found += [
      (events[k][0], user, items[k - 10 : k], items[k])
      for k in range(10, len(items))
    ]
  found.sort(key=lambda w: w[0])
  bounds = [0, int(len(found) * 0.8), int(len(found) * 0.9), len(found)]
  windows = {
    s: [w[1:] for w in found[bounds[n] : bounds[n + 1]]]
    for n, s in enumerate(SPLITS)
  }
  return _from_windows(windows, len(movies))
