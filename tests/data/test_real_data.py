"""The data sets in shared/data, with the counts that are known for them."""

import csv
import gzip
import json

import numpy as np
import pytest

from bigrec_jax.data.formats import title_files
from bigrec_jax.data.prepared import (
  catalogue,
  doctor as doctor_lib,
  examples,
  export_json,
  prepare,
)
from bigrec_jax.data.text import prompts
from bigrec_jax.workdir import storage
from tests.data import published, settings


def counts(paths):
  parts = storage.read_json(paths.manifest)["splits"]
  return [parts[split]["num_examples"] for split in ("train", "valid", "test")]


def movielens_dat(shared, folder):
  """Writes the csv release as ratings.dat and movies.dat."""
  folder.mkdir()
  source = shared / "ml-latest-small"
  with gzip.open(source / "ratings.csv.gz", "rt") as file:
    rows = list(csv.reader(file))[1:]
  text = "".join("::".join(row) + "\n" for row in rows)
  (folder / "ratings.dat").write_text(text)
  with gzip.open(source / "movies.csv.gz", "rt", encoding="utf-8") as file:
    rows = list(csv.reader(file))[1:]
  text = "".join("::".join(row) + "\n" for row in rows)
  (folder / "movies.dat").write_text(text, encoding="utf-8")
  return folder


def test_movielens_small(shared_data, tmp_path):
  folder = movielens_dat(shared_data, tmp_path / "raw")
  rows = {}
  for name, raw_dir in (
    ("csv", shared_data / "ml-latest-small"),
    ("dat", folder),
  ):
    paths = settings.workdir(tmp_path / name)
    sections = settings.sections("movie", format="movielens", raw_dir=raw_dir)
    prepare.prepare(*sections, paths)
    assert sum(counts(paths)) == 93_294
    assert counts(paths) == [74_635, 9_329, 9_330]
    rows[name] = examples.load_examples(paths, "test", 5000, 42)
  assert rows["csv"].fingerprint == rows["dat"].fingerprint
  assert len(catalogue.load(paths)) == 9_125


@pytest.mark.slow
def test_movielens_small_export_is_the_published(shared_data, tmp_path):
  pytest.importorskip("pandas")
  folder = movielens_dat(shared_data, tmp_path / "raw")
  paths = settings.workdir(tmp_path / "run")
  sections = settings.sections(
    "movie", format="movielens", raw_dir=folder, export_json=True
  )
  prepare.prepare(*sections, paths)
  parts = published.parts(published.movie_windows(folder))
  for name, split, sample in (
    ("train.json", "train", 0),
    ("valid_5000.json", "valid", export_json._SAMPLE),
    ("test_5000.json", "test", export_json._SAMPLE),
  ):
    expected = tmp_path / name
    published.write_json(parts[split], "movie", expected, sample, False)
    assert (paths.root / name).read_bytes() == expected.read_bytes()


def test_toys_rows_need_no_text_of_their_own(shared_data, tmp_path):
  folder = shared_data / "amazon-toys"
  data, prompt = settings.sections(
    format="bigrec",
    train=folder / "train_5000.json.gz",
    valid=folder / "valid.json.gz",
    test=folder / "test.json.gz",
    catalogue=folder / "id2name.json.gz",
  )
  prompt = type(prompt)(
    style="bigrec",
    instruction=(
      "Given a list of toys the user has played before, please recommend a new"
      " toy that the user likes to the user."
    ),
    history="The user has played the following toys before: ",
  )
  paths = settings.workdir(tmp_path / "run")
  prepare.prepare(data, prompt, paths)
  assert counts(paths) == [5_000, 4_793, 4_794]
  items = catalogue.load(paths)
  assert len(items) == 11_695
  loaded = examples.load_examples(paths, "test", -1, 42)
  assert not loaded.overrides
  with gzip.open(folder / "test.json.gz", "rt") as file:
    rows = json.load(file)
  text = prompts.Prompt.from_config(prompt)
  for row, history, target in zip(
    rows, loaded.history, loaded.target, strict=True
  ):
    titles = [items.titles[n] for n in history if n >= 0]
    assert row["input"] == text.input_text(titles)
    assert row["output"] == text.output_text(items.titles[target])


def test_toys_as_ids_are_the_same_rows(shared_data, tmp_path):
  folder = shared_data / "amazon-toys"
  loaded = {}
  for kind in ("json", "csv"):
    paths = settings.workdir(tmp_path / kind)
    sections = settings.sections(
      format="bigrec",
      train=folder / f"train_1000.{kind}.gz",
      valid=folder / f"valid.{kind}.gz",
      test=folder / f"test.{kind}.gz",
      catalogue=folder / "id2name4Rec.json.gz",
    )
    prepare.prepare(*sections, paths)
    loaded[kind] = examples.load_examples(paths, "test", -1, 42)
  groups = np.append(catalogue.load(paths).groups, -1)
  for name in ("history", "target"):
    np.testing.assert_array_equal(
      groups[getattr(loaded["json"], name)],
      groups[getattr(loaded["csv"], name)],
    )
  assert (np.diff(loaded["csv"].timestamp) >= 0).all()


@pytest.mark.parametrize(
  "name, users, items, interactions",
  [
    ("Beauty", 22_363, 12_101, 198_502),
    ("Toys_and_Games", 19_412, 11_924, 167_597),
  ],
)
def test_leave_one_out(shared_data, tmp_path, name, users, items, interactions):
  paths = settings.workdir(tmp_path)
  sections = settings.sections(
    format="sequences",
    train=shared_data / "amazon-2014-loo" / f"{name}.txt.gz",
    max_history=50,
  )
  prepare.prepare(*sections, paths)
  assert counts(paths) == [interactions - 3 * users, users, users]
  loaded = catalogue.load(paths)
  assert len(loaded) == items
  assert loaded.popularity.sum() == interactions - 2 * users


def test_the_published_game_catalogue(shared_data):
  titles = title_files.read(
    shared_data / "bigrec-catalogues" / "game_id2name.txt.gz",
    "auto",
    doctor_lib.Doctor("test"),
  )
  assert list(titles) == [str(n) for n in range(17_408)]
  assert len(set(titles.values())) == 16_940
  assert titles["0"] == " Xbox 360 Guitar Hero 5 Guitar Bundle"
  items = catalogue.Catalogue(
    tuple(titles), tuple(titles.values()), np.zeros(17_408, np.int64)
  )
  # SPECS quirk 14, with blanks and quotes stripped.
  assert len(set(items.groups.tolist())) == 16_920
