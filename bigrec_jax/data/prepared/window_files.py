"""Reads the prepared windows (tfds_builder), without importing TFDS.

Most starts only read, and importing TFDS takes as long as JAX itself. What it
would tell is in three JSON files that it keeps beside the shards.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from array_record.python import array_record_module

from bigrec_jax import errors

DTYPES: dict[str, np.dtype] = {
  "history": np.dtype("<i4"),
  "target": np.dtype("<i4"),
  "user": np.dtype("<i8"),
  "timestamp": np.dtype("<i8"),
}
# Of data with ratings; NaN where one isn't known.
RATING_DTYPES = {
  "history_rating": np.dtype("<f4"),
  "rating": np.dtype("<f4"),
}
LAYOUT = "layout"  # The key of the layout in the dataset's metadata.
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where the numbers are in a record.

  Attributes:
    record: a serialised example as hexadecimal digits; its numbers are filler.
    offsets: first byte of each column's numbers; columns that are not there
      are not in it.
    max_history: H, the width of the history's columns.
  """

  record: str
  offsets: Mapping[str, int]
  max_history: int

  def dtype(self) -> np.dtype:
    """Returns the record as a numpy structure with a field per column."""
    known = DTYPES | RATING_DTYPES
    return np.dtype(
      {
        "names": list(self.offsets),
        "formats": [
          (known[n], shape_of(n, self.max_history)) for n in self.offsets
        ],
        "offsets": list(self.offsets.values()),
        "itemsize": len(self.record) // 2,
      }
    )


def shape_of(column: str, max_history: int) -> tuple[int, ...]:
  """Returns the shape of a column in one record."""
  return (max_history,) if column.startswith("history") else ()


def read_columns(
  directory: pathlib.Path, split: str, rows: np.ndarray | None
) -> dict[str, np.ndarray]:
  """Reads columns of a split.

  Args:
    directory: folder that `write` returned.
    split: train, valid or test.
    rows: [N] int64 row numbers in any order, or None for all rows.

  Returns:
    history [N, H] int32, target [N] int32, user [N] int64, timestamp [N]
    int64, in the order of `rows`; where the data have ratings, also
    history_rating [N, H] and rating [N], float32.

  Raises:
    UserError: the dataset is missing or damaged.
  """
  try:
    where = Layout(**_json(directory / "metadata.json")[LAYOUT])
    files: list[str] = []
    lengths: list[int] = []
    if rows is None or len(rows):
      files, lengths = _shards(directory, split)
  except (OSError, KeyError, TypeError, ValueError) as error:
    raise errors.UserError(
      f"{directory}: no prepared split {split} ({error}), --mode=prepare makes"
      " it"
    ) from None
  ends = np.cumsum(lengths)
  count = int(ends[-1]) if rows is None else len(rows)
  dtype = where.dtype()
  # Shard by shard into the columns: all records at once would take as much
  # memory again as the numbers in them.
  columns = {
    name: np.empty((count, *dtype[name].shape), dtype[name].base)
    for name in where.offsets
  }
  shard = None if rows is None else np.searchsorted(ends, rows, side="right")
  for number, path in enumerate(files):
    start, end = int(ends[number]) - lengths[number], int(ends[number])
    chosen: slice | np.ndarray
    if rows is None:
      chosen = slice(start, end)
      table = _read(path, range(lengths[number]), dtype)
    else:
      chosen = np.flatnonzero(shard == number)
      if not len(chosen):
        continue
      table = _read(path, (rows[chosen] - start).tolist(), dtype)
    for name, column in columns.items():
      column[chosen] = table[name]
  return columns


def _json(path: pathlib.Path) -> dict[str, Any]:
  return json.loads(path.read_text(encoding="utf-8"))


def _shards(directory: pathlib.Path, split: str) -> tuple[list[str], list[int]]:
  """Returns the paths of a split's shards and their numbers of records."""
  info = _json(directory / "dataset_info.json")
  parts = {part["name"]: part for part in info["splits"]}
  part = parts[split]
  if part["filepathTemplate"] != _TEMPLATE:
    raise ValueError(f"shards are named {part['filepathTemplate']}")
  lengths = [int(length) for length in part["shardLengths"]]
  stem = f"{info['name']}-{split}.{info['fileFormat']}"
  count = len(lengths)
  names = [f"{stem}-{n:05d}-of-{count:05d}" for n in range(count)]
  return [os.fspath(directory / name) for name in names], lengths


def _read(path: str, rows: Sequence[int], dtype: np.dtype) -> np.ndarray:
  """Reads rows of one shard, a range from end to end."""
  try:
    reader = array_record_module.ArrayRecordReader(
      path, options="readahead_buffer_size:0"
    )
    if isinstance(rows, range):
      records = reader.read(rows.start, rows.stop)
    else:
      records = reader.read(rows)
  except (RuntimeError, ValueError, IndexError) as error:
    raise errors.UserError(
      f"{path}: missing or damaged ({error}); delete its folder and prepare"
      " again"
    ) from None
  joined = b"".join(records)
  if len(joined) != len(rows) * dtype.itemsize:
    raise errors.UserError(
      f"{path}: {len(joined)} bytes in {len(records)} records found,"
      f" {len(rows) * dtype.itemsize} expected; delete its folder and prepare"
      " again"
    )
  return np.frombuffer(joined, dtype)
