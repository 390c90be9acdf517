import os
import subprocess
import sys

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.data.prepared import splits, tfds_builder, window_files
from tests.data.prepared import test_splits


@pytest.fixture
def windows():
  line = splits.timeline(test_splits.make_log(seed=1))
  return splits.chronological(line, "tail", 7)


@pytest.fixture
def dataset(windows, tmp_path, monkeypatch):
  monkeypatch.setattr(tfds_builder, "_SHARD", 11)  # Several shards.
  monkeypatch.setattr(tfds_builder, "_BLOCK", 4)
  return tfds_builder.write(tmp_path, windows, 7)


def test_all_rows_come_back(dataset, windows):
  for split, part in windows.items():
    found = window_files.read_columns(dataset, split, None)
    for name, expected in part.columns(slice(None)).items():
      np.testing.assert_array_equal(found[name], expected)
      assert found[name].dtype == expected.dtype


def test_some_rows_come_back_in_the_order_asked_for(dataset, windows):
  rows = np.random.default_rng(0).permutation(len(windows["train"]))[:29]
  found = window_files.read_columns(dataset, "train", rows)
  for name, expected in windows["train"].columns(rows).items():
    np.testing.assert_array_equal(found[name], expected)


def test_the_public_tfds_api_reads_it_without_tensorflow(dataset, windows):
  code = """
import sys
import tensorflow_datasets as tfds
source = tfds.builder_from_directory(sys.argv[1]).as_data_source("test")
for row in source:
  print([int(n) for n in row["history"]], int(row["target"]),
        int(row["user"]), int(row["timestamp"]))
assert "tensorflow" not in sys.modules
assert "jax" not in sys.modules
"""
  run = subprocess.run(
    [sys.executable, "-c", code, os.fspath(dataset)],
    capture_output=True,
    text=True,
    check=True,
  )
  columns = windows["test"].columns(slice(None))
  expected = [
    f"{h.tolist()} {t} {u} {s}"
    for h, t, u, s in zip(*columns.values(), strict=True)
  ]
  assert run.stdout.splitlines() == expected


def test_a_missing_or_damaged_dataset_is_named(dataset, tmp_path):
  with pytest.raises(errors.UserError, match="no prepared split train"):
    window_files.read_columns(tmp_path / "nowhere", "train", None)
  with pytest.raises(errors.UserError, match="no prepared split other"):
    window_files.read_columns(dataset, "other", None)
  shard = sorted(dataset.glob("*train*"))[0]
  content = shard.read_bytes()
  shard.write_bytes(content[:100])
  with pytest.raises(errors.UserError, match=shard.name):
    window_files.read_columns(dataset, "train", None)
  shard.unlink()
  with pytest.raises(errors.UserError, match=shard.name):
    window_files.read_columns(dataset, "train", None)


def test_an_empty_split_is_refused(windows, tmp_path):
  empty = splits.Windows(
    windows["test"].timeline, np.empty(0, np.int64), windows["test"].max_history
  )
  with pytest.raises(ValueError, match="split test is empty"):
    tfds_builder.write(tmp_path, {**windows, "test": empty}, 7)
