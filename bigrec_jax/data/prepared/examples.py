"""The rows of a split as numpy columns: what training and evaluation read."""

import dataclasses
import functools
import hashlib
import json
import types
from collections.abc import Mapping

import numpy as np

from bigrec_jax import errors
from bigrec_jax.data.prepared import manifest, splits, window_files
from bigrec_jax.workdir import fingerprints, paths as paths_lib, storage

_NO_OVERRIDES: Mapping[int, tuple[str, str]] = types.MappingProxyType({})


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
  """N examples of a split.

  Attributes:
    split: train, valid or test.
    rows: [N] int64, row numbers in the full split.
    history: [N, H] int32, catalogue rows, oldest first, padded at the right
      with -1.
    target: [N] int32, catalogue rows.
    user: [N] int64, user numbers; -1 where the data don't say.
    timestamp: [N] int64, time of the target in the unit of the data.
    overrides: (instruction, input) by position 0..N-1, of rows whose text is
      not what the prompt makes of the history (format `bigrec`).
    history_rating: [N, H] float32, padded with NaN; None where the prepared
      data have no ratings.
    rating: [N] float32 of the target, likewise.
  """

  split: str
  rows: np.ndarray
  history: np.ndarray
  target: np.ndarray
  user: np.ndarray
  timestamp: np.ndarray
  overrides: Mapping[int, tuple[str, str]] = dataclasses.field(
    default_factory=lambda: _NO_OVERRIDES
  )
  history_rating: np.ndarray | None = None
  rating: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.rows)

  @functools.cached_property
  def fingerprint(self) -> str:
    """Names split, rows, histories, targets and texts in their order.

    Not the ratings: what reads none of them stays current with them.
    """
    digest = hashlib.sha256()
    for column in (self.rows, self.history, self.target):
      digest.update(repr(column.shape).encode())
      digest.update(np.ascontiguousarray(column).data)
    texts = [[n, *text] for n, text in sorted(self.overrides.items())]
    return fingerprints.of_value([self.split, digest.hexdigest(), texts])

  @property
  def owners(self) -> np.ndarray:
    """[N] int64: equal for rows of one user; of nobody known, nobody else's."""
    return np.where(self.user < 0, -1 - np.arange(len(self)), self.user)

  @property
  def num_users(self) -> int | None:
    """How many users there are; None where the data don't say of each row."""
    known = len(self) and self.user.min() >= 0
    return len(np.unique(self.user)) if known else None

  def take(self, indices: np.ndarray | slice) -> "Examples":
    """Returns the examples at some positions, in the order given."""
    kept = np.arange(len(self))[indices]
    overrides = _NO_OVERRIDES
    if self.overrides:
      overrides = {
        new: self.overrides[old]
        for new, old in enumerate(kept.tolist())
        if old in self.overrides
      }
    return Examples(
      self.split,
      self.rows[kept],
      self.history[kept],
      self.target[kept],
      self.user[kept],
      self.timestamp[kept],
      overrides,
      None if self.history_rating is None else self.history_rating[kept],
      None if self.rating is None else self.rating[kept],
    )


def load_examples(
  paths: paths_lib.Paths, split: str, count: int, seed: int
) -> Examples:
  """Loads a split or the published sample of it.

  Args:
    paths: the workdir.
    split: train, valid or test.
    count: how many rows; -1, or more than there are, gives all.
    seed: of the sample. Train rows are shuffled even where all are taken, as
      the published train.py does; valid and test rows are then in file order.

  Returns:
    The examples in the order of the sample.

  Raises:
    UserError: the data are not prepared, or damaged.
  """
  prepared = manifest.read(paths.manifest)
  if split not in prepared.num_examples:
    raise errors.UserError(
      f"{paths.manifest}: no split {split}; --mode=prepare writes it"
    )
  available = prepared.num_examples[split]
  directory = paths.data / prepared.dataset
  choose = splits.train_rows if split == "train" else splits.evaluation_rows
  rows = choose(available, count, seed)
  if available and len(rows) == available:
    # Shards are read from end to end, then put in order.
    columns = window_files.read_columns(directory, split, None)
    if not np.array_equal(rows, np.arange(available)):
      columns = {name: column[rows] for name, column in columns.items()}
  else:
    columns = window_files.read_columns(directory, split, rows)
  overrides = read_overrides(paths, split)
  if overrides:
    overrides = {
      position: overrides[row]
      for position, row in enumerate(rows.tolist())
      if row in overrides
    }
  return Examples(split, rows, overrides=overrides, **columns)


def read_overrides(
  paths: paths_lib.Paths, split: str
) -> Mapping[int, tuple[str, str]]:
  """Returns (instruction, input) by row of the full split.

  Raises:
    UserError: the file is damaged.
  """
  path = paths.data / f"overrides_{split}.jsonl"
  if not path.exists():
    return _NO_OVERRIDES
  overrides = {}
  for place, value in storage.read_lines(path):
    kinds = [type(x) for x in value] if isinstance(value, list) else []
    if kinds != [int, str, str]:
      raise errors.UserError(
        f"{place}: damaged, [row, instruction, input] expected; delete the"
        " data folder and prepare again"
      )
    row, instruction, text = value
    overrides[row] = (instruction, text)
  return overrides


def write_overrides(
  paths: paths_lib.Paths, split: str, overrides: Mapping[int, tuple[str, str]]
) -> None:
  """Writes data/overrides_<split>.jsonl; nothing if there are none."""
  if not overrides:
    return
  path = paths.data / f"overrides_{split}.jsonl"
  with open(path, "w", encoding="utf-8") as file:
    for row, (instruction, text) in sorted(overrides.items()):
      file.write(json.dumps([row, instruction, text]) + "\n")
