"""Preparing a workdir: what is written, when again, what a kill leaves."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.data.formats import registry as formats
from bigrec_jax.data.prepared import (
  catalogue,
  examples,
  prepare,
  tfds_builder,
  window_files,
)
from bigrec_jax.workdir import leftovers, storage
from tests.data import raw, settings


@pytest.fixture
def paths(tmp_path):
  return settings.workdir(tmp_path / "run")


@pytest.fixture
def movies(tmp_path):
  folder = raw.movielens(tmp_path / "raw")
  return settings.sections("movie", format="movielens", raw_dir=folder)


def snapshot(paths):
  return {
    path.relative_to(paths.root): path.read_bytes()
    for path in sorted(paths.root.rglob("*"))
    if path.is_file()
  }


def test_what_is_written(movies, paths):
  lines = prepare.prepare(*movies, paths)
  assert sorted(entry.name for entry in paths.root.iterdir()) == ["data"]
  assert sorted(entry.name for entry in paths.data.iterdir()) == [
    "bigrec_windows",
    "catalogue.jsonl",
    "doctor.json",
    "manifest.json",
    "users.jsonl",
  ]
  manifest = storage.read_json(paths.manifest)
  items = catalogue.load(paths)
  assert manifest["fingerprint"] == prepare.manifest_fingerprint(*movies)
  assert manifest["catalogue"] == items.fingerprint
  assert manifest["counts"]["items"] == len(items) == 60
  assert manifest["counts"]["train_interactions"] == items.popularity.sum()
  assert manifest["instructions"] == [
    [movies[1].instruction, movies[1].history]
  ]
  train = examples.load_examples(paths, "train", -1, 0)
  assert manifest["splits"]["train"]["num_examples"] == len(train)
  assert max(train.target) < len(items)
  doctor = storage.read_json(paths.doctor)
  assert {entry["what"]: entry["count"] for entry in doctor["findings"]}[
    "titles that read as a missing value"
  ] == 2
  assert all(entry["holds"] for entry in doctor["checks"])
  assert any("titles with markup" in line for line in lines)
  assert any(f"train {len(train):,}" in line for line in lines)


def test_the_same_input_gives_the_same_bytes(movies, paths, tmp_path):
  prepare.prepare(*movies, paths)
  again = settings.workdir(tmp_path / "again")
  prepare.prepare(*movies, again)
  assert snapshot(paths) == snapshot(again)


def test_current_until_options_or_files_change(movies, paths, tmp_path):
  data, prompt = movies
  assert not prepare.is_current(data, prompt, paths)
  prepare.prepare(data, prompt, paths)
  assert prepare.is_current(data, prompt, paths)
  sampled = settings.sections(
    "movie", format="movielens", raw_dir=data.raw_dir, num_train=7
  )
  assert prepare.is_current(*sampled, paths)
  shorter = settings.sections(
    "movie", format="movielens", raw_dir=data.raw_dir, max_history=5
  )
  assert not prepare.is_current(*shorter, paths)
  moved = shutil.copytree(data.raw_dir, tmp_path / "moved")
  elsewhere = settings.sections("movie", format="movielens", raw_dir=moved)
  assert prepare.is_current(*elsewhere, paths)
  with open(moved / "movies.dat", "a") as file:
    file.write("100000::One more::x\n")
  assert not prepare.is_current(*elsewhere, paths)


def test_prepared_data_outlive_the_raw_files(movies, paths, tmp_path):
  data, prompt = movies
  prepare.prepare(data, prompt, paths)
  shutil.rmtree(data.raw_dir)
  assert prepare.is_current(data, prompt, paths)
  mistyped = settings.sections(
    "movie", format="movielens", raw_dir=tmp_path / "rwa"
  )
  with pytest.raises(errors.UserError, match="no such folder"):
    prepare.is_current(*mistyped, paths)


def test_exports_are_made_when_asked_for_or_missing(movies, tmp_path, paths):
  folder = raw.movielens(tmp_path / "raw")
  prepare.prepare(*movies, paths)
  fingerprint = storage.read_json(paths.manifest)["fingerprint"]
  sections = settings.sections(
    "movie", format="movielens", raw_dir=folder, export_json=True
  )
  assert not prepare.is_current(*sections, paths)
  prepare.prepare(*sections, paths)
  assert prepare.is_current(*sections, paths)
  assert prepare.is_current(*movies, paths)
  # What is derived from the examples need not be made again.
  assert storage.read_json(paths.manifest)["fingerprint"] == fingerprint
  other = dataclasses.replace(sections[1], history="They saw: ")
  assert not prepare.is_current(sections[0], other, paths)
  (paths.root / "valid.json").unlink()
  assert not prepare.is_current(*sections, paths)


def test_a_bad_file_leaves_the_old_data(movies, paths):
  prepare.prepare(*movies, paths)
  before = snapshot(paths)
  with open(f"{movies[0].raw_dir}/ratings.dat", "a") as file:
    file.write("1::1::x::2\n")
  with pytest.raises(errors.UserError, match="rating 'x' found"):
    prepare.prepare(*movies, paths)
  assert snapshot(paths) == before


def test_a_full_disk_leaves_the_old_data(movies, paths, monkeypatch):
  prepare.prepare(*movies, paths)
  before = snapshot(paths)

  def fail(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(tfds_builder, "_write_shard", fail)
  with pytest.raises(OSError, match="No space left"):
    prepare.prepare(*movies, paths)
  assert snapshot(paths) == before


def test_a_kill_leaves_the_old_data(movies, paths, tmp_path):
  prepare.prepare(*movies, paths)
  before = snapshot(paths)
  # Standard output is TFDS', and hidden, while the shards are written.
  code = """
import pathlib, sys, time
from bigrec_jax.data.prepared import prepare, tfds_builder
from tests.data import settings
write = tfds_builder._write_shard
def slow(*args):
  write(*args)
  print("writing", file=sys.__stdout__, flush=True)
  time.sleep(60)
tfds_builder._write_shard = slow
sections = settings.sections("movie", format="movielens", raw_dir=sys.argv[1])
prepare.prepare(*sections, settings.workdir(pathlib.Path(sys.argv[2])))
"""
  run = subprocess.Popen(
    [sys.executable, "-c", code, movies[0].raw_dir, os.fspath(paths.root)],
    stdout=subprocess.PIPE,
    cwd=pathlib.Path(__file__).parents[3],
  )
  assert run.stdout.readline() == b"writing\n"
  run.send_signal(signal.SIGKILL)
  run.wait()
  assert {k: v for k, v in snapshot(paths).items() if k.parts[0] == "data"} == (
    before
  )
  assert list(paths.root.glob(".prepare.*.tmp"))
  leftovers.clean(paths.root)  # As the next writer's lock does.
  prepare.prepare(*movies, paths)
  assert snapshot(paths) == before


def test_a_kill_between_the_renames_is_undone(movies, paths):
  prepare.prepare(*movies, paths)
  before = snapshot(paths)
  paths.data.rename(paths.root / ".data.old")
  shutil.rmtree(movies[0].raw_dir)
  with pytest.raises(errors.UserError):
    prepare.prepare(*movies, paths)
  assert snapshot(paths) == before


def test_files_of_others_are_never_replaced(movies, paths):
  paths.data.mkdir()
  (paths.data / "ratings.dat").write_text("mine")
  with pytest.raises(errors.UserError, match="data: ratings.dat found"):
    prepare.prepare(*movies, paths)
  assert (paths.data / "ratings.dat").read_text() == "mine"


def test_synthetic_data_need_no_files(paths):
  sections = settings.sections()
  prepare.prepare(*sections, paths)
  assert prepare.is_current(*sections, paths)
  train = examples.load_examples(paths, "train", -1, 0)
  assert (train.history[:, 0] >= 0).all()


def test_rows_of_the_export_come_back_as_format_bigrec(tmp_path):
  folder = raw.amazon(tmp_path / "raw")
  first = settings.workdir(tmp_path / "first")
  prepare.prepare(
    *settings.sections(format="amazon", raw_dir=folder, export_json=True), first
  )
  names = tmp_path / "id2name.txt"
  items = catalogue.load(first)
  # "nan" is what the published export makes of some titles (quirk 35).
  with open(names, "w", encoding="utf-8") as file:
    for key, title in zip(items.external_ids, items.titles, strict=True):
      file.write(f"{title}\t{key}\n")
    file.write("nan\tmissing\n")
  second = settings.workdir(tmp_path / "second")
  root = first.root
  prepare.prepare(
    *settings.sections(
      format="bigrec",
      train=root / "train.json",
      valid=root / "valid.json",
      test=root / "test.json",
      catalogue=names,
    ),
    second,
  )
  for split in ("train", "valid", "test"):
    one = examples.load_examples(first, split, -1, 0)
    two = examples.load_examples(second, split, -1, 0)
    group = np.append(items.groups, -1)  # And -1 for the padding.
    np.testing.assert_array_equal(group[one.history], group[two.history])
    assert not two.overrides


def test_overrides_are_loaded_with_their_rows(tmp_path, paths):
  rows = [
    {"instruction": "Pick", "input": f'Had:"Doom{n}"', "output": f'"Doom{n}"'}
    for n in range(9)
  ]
  path, names = tmp_path / "rows.json", tmp_path / "names.json"
  path.write_text(json.dumps(rows))
  names.write_text(json.dumps({str(n): f"Doom{n}" for n in range(9)}))
  sections = settings.sections(
    format="bigrec", train=path, valid=path, test=path, catalogue=names
  )
  prepare.prepare(*sections, paths)
  sample = examples.load_examples(paths, "valid", 4, 1)
  assert sample.overrides == {
    n: ("Pick", f'Had:"Doom{row}"') for n, row in enumerate(sample.rows)
  }
  assert (sample.user == -1).all()


@pytest.mark.slow
def test_a_million_windows_are_quick(tmp_path):
  rng = np.random.default_rng(0)
  number = 1_100_000
  user = np.sort(rng.integers(0, 10_000, number))
  log = formats.interactions.Interactions(
    user,
    rng.integers(0, 10_000, number).astype(np.int32),
    rng.integers(0, 10**9, number),
    {},
  )
  line = formats.splits.timeline(log)
  windows = formats.splits.chronological(line, "full", 10)
  start = time.monotonic()
  folder = tfds_builder.write(tmp_path, windows, 10)
  written = time.monotonic()
  window_files.read_columns(folder, "train", None)
  read = time.monotonic()
  total = sum(len(part) for part in windows.values())
  assert total / (written - start) > 20_000
  assert len(windows["train"]) / (read - written) > 50_000
