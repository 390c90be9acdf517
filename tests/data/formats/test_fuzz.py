"""Every reader of raw files on damaged ones: read or refused in one line.

`read` counts what came in: a damaged file may give other rows than the whole
one, but as many as its own lines, rows or objects hold, and the doctor is
told of those that were left out.
"""

import gzip
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings as hypothesis, strategies

from bigrec_jax.data.formats import (
  amazon,
  bigrec_json,
  csv_files,
  encodings,
  movielens,
  raw_files,
  sequences,
  title_files,
)
from bigrec_jax.data.prepared import (
  doctor as doctor_lib,
  histories,
  popularity,
)
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.data.text import prompts
from tests import fuzzing
from tests.data import raw, settings

EXAMPLES = 150
NAMES = {"7": "Doom", "3": 'A", "B', "5": "Pokémon", "9": "Line\nbreak"}
CATALOGUE = Catalogue(
  tuple(NAMES), tuple(NAMES.values()), np.zeros(len(NAMES), np.int64)
)


def _csv_pair(folder):
  """ratings.csv and movies.csv, with quotes and line breaks in titles."""
  rows = [
    (u, 1 + (u * 7 + n) % 9, n % 5 + 1, n) for u in range(9) for n in range(9)
  ]
  lines = [",".join(map(str, row)) for row in rows]
  (folder / "ratings.csv").write_text(
    "\n".join(["userId,movieId,rating,timestamp", *lines, ""])
  )
  lines = [f'{n},"The ""{n}"", or\ntwo",Drama|War' for n in range(1, 9)]
  (folder / "movies.csv").write_text(
    "\n".join(["movieId,title,genres", *lines, "9,Plain,Drama", ""])
  )


def _doctor():
  return doctor_lib.Doctor("fuzz")


def _movielens_doctor(folder, doctor):
  return movielens.read(
    settings.sections(format="movielens", raw_dir=folder)[0], doctor
  )


def _movielens(folder):
  return _movielens_doctor(folder, _doctor())


def _table(folder):
  return _table_doctor(folder, _doctor())


def _table_doctor(folder, doctor):
  data = settings.sections(
    format="csv",
    interactions=folder / "ratings.csv",
    items=folder / "movies.csv",
  )[0]
  return csv_files.read(data, doctor)


def _bigrec(folder, train="train.json"):
  data, prompt = settings.sections(
    format="bigrec",
    train=folder / train,
    valid=folder / "spare.json",
    test=folder / "spare.json",
    catalogue=folder / "names.json",
  )
  prompt = prompts.Prompt.from_config(prompt)
  return bigrec_json.read(data, prompt, _doctor())


def _write_bigrec(folder):
  rows = [
    {"instruction": "Go", "input": 'Had: "Doom", "Pokémon"\n ', "output": t}
    for t in ('"Doom"', '"Pokémon"', '"A", "B"')
  ]
  for name in ("train.json", "spare.json"):
    (folder / name).write_text(json.dumps(rows, indent=1))
  (folder / "names.json").write_text(json.dumps(NAMES))
  (folder / "train.csv").write_text(
    "user_id,item_ids,timestamp\n"
    + "".join(f"u{n},\"['7', '3', '5']\",{n}\n" for n in range(30))
  )


# Name -> (writes a folder, file to damage, reads the folder).
READERS = {
  "ratings.dat": (raw.movielens, "ratings.dat", _movielens),
  "movies.dat": (raw.movielens, "movies.dat", _movielens),
  "ratings.csv": (_csv_pair, "ratings.csv", _movielens),
  "movies.csv": (_csv_pair, "movies.csv", _movielens),
  "interactions": (_csv_pair, "ratings.csv", _table),
  "items": (_csv_pair, "movies.csv", _table),
  "reviews": (
    raw.amazon,
    "Video_Games_5.json",
    lambda folder: amazon.read(
      settings.sections(format="amazon", raw_dir=folder)[0], _doctor()
    ),
  ),
  "metadata": (
    raw.amazon,
    "meta_Video_Games.json",
    lambda folder: amazon.read(
      settings.sections(format="amazon", raw_dir=folder)[0], _doctor()
    ),
  ),
  "train.json": (_write_bigrec, "train.json", _bigrec),
  "train.csv": (
    _write_bigrec,
    "train.csv",
    lambda folder: _bigrec(folder, "train.csv"),
  ),
  "names.json": (_write_bigrec, "names.json", _bigrec),
  "sequences": (
    lambda folder: (folder / "s.txt").write_text(
      "".join(f"{u} 3 {u} 5 7 9\n" for u in range(1, 40))
    ),
    "s.txt",
    lambda folder: sequences.read(
      settings.sections(format="sequences", train=folder / "s.txt")[0],
      _doctor(),
    ),
  ),
  "id2name.txt": (
    lambda folder: (folder / "id2name.txt").write_text(
      "".join(f"Title, {n}\t{n}\n" for n in range(40))
    ),
    "id2name.txt",
    lambda folder: title_files.read(folder / "id2name.txt", "auto", _doctor()),
  ),
  "histories": (
    lambda folder: (folder / "h.jsonl").write_text(
      '{"history": ["7", "Doom", 5], "user": {"id": 1}}\n' * 9
    ),
    "h.jsonl",
    lambda folder: histories.find(
      list(histories.read(folder / "h.jsonl")), CATALOGUE, "text"
    ),
  ),
  "popularity": (
    lambda folder: (folder / "p.json").write_text(
      json.dumps({key: n for n, key in enumerate(NAMES)})
    ),
    "p.json",
    lambda folder: popularity.counts(str(folder / "p.json"), CATALOGUE),
  ),
}


def _fuzz(folder, name, examples, packed=False):
  write, file, read = READERS[name]
  write(folder)
  path = folder / file
  whole = path.read_bytes()
  if packed:
    path.unlink()
    path = folder / f"{file}.gz"
    whole = gzip.compress(whole, mtime=0)
    path.write_bytes(whole)

  @hypothesis(
    max_examples=examples,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
  )
  @given(strategies.data())
  def damage(data):
    path.write_bytes(fuzzing.mutate(whole, data))
    if fuzzing.outcome(lambda: read(folder), path, folder) is not None:
      seen.append(1)

  seen = []
  assert read(folder) is not None
  damage()
  # Some damage is harmless: the test isn't about refusing everything.
  assert seen or examples < EXAMPLES


@pytest.mark.parametrize("name", READERS)
def test_damage_to_bytes(tmp_path, name):
  _fuzz(tmp_path, name, 25)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_much_damage_to_bytes(tmp_path, name):
  _fuzz(tmp_path, name, EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ratings.dat", "movies.csv", "reviews"])
def test_damage_to_packed_files(tmp_path, name):
  _fuzz(tmp_path, name, EXAMPLES, packed=True)


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", ["reviews", "metadata", "train.json", "histories", "popularity"]
)
def test_damage_to_json_values(tmp_path, name):
  write, file, read = READERS[name]
  write(tmp_path)
  path = tmp_path / file
  text = path.read_text()
  by_line = name in ("reviews", "metadata", "histories")
  values = [json.loads(line) for line in text.splitlines()] if by_line else []
  whole = None if by_line else json.loads(text)

  @hypothesis(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
  )
  @given(strategies.data())
  def damage(data):
    if by_line:
      lines = [json.dumps(value).encode() for value in values]
      place = data.draw(strategies.integers(0, len(lines) - 1))
      lines[place] = fuzzing.mutate_json(values[place], data)
      path.write_bytes(b"\n".join(lines) + b"\n")
    else:
      path.write_bytes(fuzzing.mutate_json(whole, data))
    fuzzing.outcome(lambda: read(tmp_path), path, tmp_path)

  damage()


@pytest.mark.slow
@hypothesis(
  max_examples=EXAMPLES, derandomize=True, database=None, deadline=None
)
@given(strategies.data())
def test_no_row_of_an_array_is_lost(tmp_path_factory, data):
  """What is read of a damaged array is all that a whole reader sees."""
  path = tmp_path_factory.mktemp("rows") / "rows.json"
  rows = [{"a": n, "b": [1, "x]"]} for n in range(20)]
  path.write_bytes(fuzzing.mutate(json.dumps(rows).encode(), data))
  found = fuzzing.outcome(lambda: list(raw_files.json_rows(path)), path)
  if found is not None:
    text = encodings.Text(path).whole()  # Not UTF-8: as Windows-1252.
    if text.lstrip().startswith("["):
      assert [row for _, row in found] == json.loads(text)


@pytest.mark.slow
@pytest.mark.parametrize("read", [_movielens_doctor, _table_doctor])
@hypothesis(
  max_examples=EXAMPLES,
  derandomize=True,
  database=None,
  deadline=None,
)
@given(strategies.data())
def test_no_rating_is_lost_to_stray_quotes(tmp_path_factory, read, data):
  """Every line is a row, one that was left out and told, or refused."""
  folder = tmp_path_factory.mktemp("csv")
  _csv_pair(folder)
  path = folder / "ratings.csv"
  text = path.read_text()
  for _ in range(data.draw(strategies.integers(1, 4))):
    place = data.draw(strategies.integers(0, len(text)))
    text = text[:place] + '"' + text[place:]
  path.write_text(text)
  doctor = doctor_lib.Doctor("fuzz")
  if fuzzing.outcome(lambda: read(folder, doctor), path) is None:
    return
  rules = doctor.to_dict()["rules"]
  read_in = next(r for r in rules if r["unit"] == "interactions")["before"]
  left_out = sum(r["removed"] for r in rules if r["unit"] == "rows")
  assert read_in + left_out == len(text.splitlines()) - 1
