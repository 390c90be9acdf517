"""The exported JSON is what the published notebooks write, byte for byte."""

import json
import pathlib

import pytest

from bigrec_jax.data.prepared import doctor, export_json, prepare
from tests.data import published, raw, settings

pytest.importorskip("pandas")
SAMPLE = 23


def compare(
  workdir: pathlib.Path, expected: pathlib.Path, rows: list[tuple], kind: str
) -> None:
  expected.mkdir()
  for split, part in published.parts(rows).items():
    through_pandas = kind == "game"
    names = {f"{split}.json": 0}
    if split != "train":
      names[f"{split}_{SAMPLE}.json"] = SAMPLE
    for name, sample in names.items():
      published.write_json(part, kind, expected / name, sample, through_pandas)
      assert (workdir / name).read_bytes() == (expected / name).read_bytes()


@pytest.fixture(autouse=True)
def small_sample(monkeypatch):
  monkeypatch.setattr(export_json, "_SAMPLE", SAMPLE)


@pytest.mark.parametrize("encoding", ["utf-8", "iso-8859-1"])
def test_movie_files_equal_the_published(tmp_path, encoding):
  folder = raw.movielens(tmp_path / "raw", encoding=encoding)
  data, prompt = settings.sections(
    "movie", format="movielens", raw_dir=folder, export_json=True
  )
  paths = settings.workdir(tmp_path / "run")
  prepare.prepare(data, prompt, paths)
  rows = published.movie_windows(folder)
  assert len(rows) > 500
  compare(paths.root, tmp_path / "expected", rows, "movie")


def test_movie_titles_are_right_where_the_encoding_is_asked_for(tmp_path):
  folder = raw.movielens(tmp_path / "raw")
  data, prompt = settings.sections(
    "movie",
    format="movielens",
    raw_dir=folder,
    export_json=True,
    encoding="utf-8",
  )
  paths = settings.workdir(tmp_path / "run")
  prepare.prepare(data, prompt, paths)
  text = json.loads((paths.root / "train.json").read_text())
  assert any("Pokémon" in row["input"] for row in text)


def test_game_files_equal_the_published(tmp_path):
  folder = raw.amazon(tmp_path / "raw")
  data, prompt = settings.sections(
    format="amazon", raw_dir=folder, export_json=True
  )
  paths = settings.workdir(tmp_path / "run")
  prepare.prepare(data, prompt, paths)
  rows = published.game_windows(
    folder / "Video_Games_5.json", folder / "meta_Video_Games.json"
  )
  assert any(not history for _, history, _, _ in rows)
  assert any(target == "None" for _, _, target, _ in rows)
  compare(paths.root, tmp_path / "expected", rows, "game")


def test_fewer_rows_than_the_sample_are_all_there_and_said(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(export_json, "_SAMPLE", 5000)
  folder = raw.amazon(tmp_path / "raw")
  data, prompt = settings.sections(
    format="amazon", raw_dir=folder, export_json=True
  )
  paths = settings.workdir(tmp_path / "run")
  lines = prepare.prepare(data, prompt, paths)
  whole = (paths.root / "test.json").read_bytes()
  assert (paths.root / "test_5000.json").read_bytes() == whole
  count = len(json.loads(whole))
  assert any(f"test_5000.json has all {count} rows" in line for line in lines)


def test_missing_values_are_those_of_pandas():
  parsers = pytest.importorskip("pandas._libs.parsers")
  assert doctor.MISSING == parsers.STR_NA_VALUES


def test_no_rows_are_written_as_json_does(tmp_path):
  export_json._dump(tmp_path / "empty.json", [])
  assert (tmp_path / "empty.json").read_text() == json.dumps([], indent=4)
