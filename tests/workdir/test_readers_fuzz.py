"""Every reader of a workdir's and of given files, fed with damaged files.

A reader takes the file or refuses it in one line that names it.
"""

import functools
import json
import shutil

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from bigrec_jax.cf import scores
from bigrec_jax.data.prepared import (
  catalogue,
  examples,
  manifest,
  popularity,
)
from bigrec_jax.rankers.distance import stored_embeddings
from bigrec_jax.results import (
  cf_file,
  chosen,
  ground_file,
  rows,
  run_inputs,
  writer,
)
from bigrec_jax.workdir import (
  arrays,
  origins,
  paths as paths_lib,
  records,
  settings,
)
from tests import fuzzing

TITLES = ("Halo 3", "Zelda", "Café <i>x</i>")
CATALOGUE = catalogue.Catalogue(("a", "b", "c"), TITLES, np.arange(3))
ROW = {"ndcg": {"1": 0.5, "20": 0.7}, "hr": {"1": 0.5, "20": 1}}
BOUNDS = {"ndcg": {"1": [0, 1.0]}, "hr": {"20": [0.1, 0.2]}}
RECORD = {"base": "0" * 16, "train": {"seed": 0, "rate": 0.1}, "texts": ["a"]}


def _metric(split, injection, protocol, gamma):
  own = {"split": split, "injection": injection, "protocol": protocol}
  return own | {"gamma": gamma, "ci95": BOUNDS} | ROW


GROUND = {
  "schema": 1,
  "num_items": 3,
  "num_examples": {"valid": 2, "test": 2},
  "fingerprints": {"base": "0" * 16},
  "results": [
    _metric("valid", "none", "bigrec", None),
    _metric("test", "none", "bigrec", None),
    _metric("test", "cf", "bigrec", {"ndcg": {"1": 0.5}, "hr": {"1": 1}}),
    _metric("test", "cf", "single_gamma", 0.5),
    _metric("test", "popularity+cf", "two_gammas", {"popularity": 0, "cf": 1}),
  ],
  "baselines": [{"name": "random", "split": "test", "ci95": BOUNDS} | ROW],
  "gamma_curves": {
    "cf": {
      "gamma": [0, 0.5],
      "ndcg": {"1": [0.1, 0.2], "20": [0.2, 0.3]},
      "hr": {"1": [0.1, 0.2], "20": [0.2, 0.3]},
    }
  },
  "gamma_pairs": {
    "popularity+cf": {
      "popularity": [0, 0],
      "cf": [0, 1],
      "ndcg": {"20": [0.1, 0.2]},
    }
  },
  "bm25": {"k1": 1.2},
}
MANIFEST = {
  "fingerprint": "0" * 16,
  "catalogue": "1" * 16,
  "dataset": "windows/1.0.0",
  "counts": {"items": 3, "users": 2},
  "splits": {"train": {"num_examples": 4}, "test": {"num_examples": 2}},
  "ratings": False,
}
DOCTOR = {
  "format": "csv",
  "rules": [
    {"rule": "few", "unit": "rows", "before": 3, "removed": 1, "after": 2}
    | {"examples": ["x"]}
  ],
  "findings": [{"what": "odd", "count": 2, "examples": []}],
  "checks": [{"check": "order", "holds": True, "detail": "all"}],
  "notes": ["a note"],
}


def _lines(*values):
  return "".join(json.dumps(value) + "\n" for value in values).encode()


def _best(path):
  """Reads what ground_eval found, and what every mode makes of it."""
  found = ground_file.read(path)
  chosen.best(found, "sasrec", lambda name: True)


def _in_folder(read):
  """Returns a reader of a file that has its place in a workdir."""
  return lambda path: read(paths_lib.Paths(path.parent))


def _overrides(path):
  examples.read_overrides(paths_lib.Paths(path.parent.parent), "test")


JSON_FILES = {
  "manifest.json": (manifest.read, MANIFEST),
  "shown/manifest.json": (run_inputs.manifest, MANIFEST),
  "doctor.json": (run_inputs.doctor, DOCTOR),
  "throughput.json": (
    run_inputs.throughput,
    {"embed": {"count": 3, "unit": "texts", "seconds": 0.5, "per_second": 6}},
  ),
  "test.json": (
    run_inputs.predictions,
    [{"input": "x", "output": "y", "predict": ["a", "b"], "scores": [0, 1.5]}],
  ),
  "test_examples.json": (
    run_inputs.examples,
    [
      {"target": "x", "history": ["a"], "predict": ["b"]}
      | {"grounded": {"none": ["a", "b"]}, "rank": {"none": 3, "cf": None}}
    ],
  ),
  "ground_eval.json": (_best, GROUND),
  "cf.json": (
    cf_file.read,
    {"schema": 1, "sasrec": {"valid": ROW, "test": ROW, "epochs": 2}},
  ),
  "task.json": (
    rows.read_task,
    {
      "schema": 1,
      "results": [
        {"split": "test", "system": "x", "metrics": {"auc": 0.5}}
        | {"ci95": {"auc": [0, 1]}, "n": 3, "seeds": [0]}
      ],
    },
  ),
  "chosen.json": (
    chosen.read,
    {"schema": 1, "injection": "popularity+cf", "cf_model": "sasrec"}
    | {"gamma": {"popularity": 1, "cf": 0.5}, "fingerprints": {"base": "0"}},
  ),
  "record.json": (records.read, RECORD),
  "origin.json": (
    origins.read_file,
    {"file": "x.gguf", "dequantised_to": "bfloat16", "general": {"name": "x"}}
    | {"quantisation": {"Q4_K": 3}},
  ),
  "config.json": (
    _in_folder(settings.recall),
    {
      "schema": 1,
      "name": "demo",
      "folder": "/tmp",
      "config": {
        "seed": 0,
        "model": {"path": "", "dtype": "float32"},
        "lora": {"alpha": 16, "target_modules": ["q_proj"]},
        "train": {"shuffle": True, "learning_rate": 0.1},
      },
      "file": {"train.num_epochs": 3},
    },
  ),
  "popularity.json": (
    lambda path: popularity.counts(str(path), CATALOGUE),
    {"a": 3, "b": 1.5, "c": 0},
  ),
}
TEXT_FILES = {
  "catalogue.jsonl": (
    lambda path: catalogue.load(paths_lib.Paths(path.parent.parent)),
    _lines(
      *(
        {"item": n, "external_id": i, "title": t, "popularity": n}
        for n, (i, t) in enumerate(zip("abc", TITLES, strict=True))
      )
    ),
  ),
  "shown/catalogue.jsonl": (
    run_inputs.catalogue,
    _lines({"item": 0, "title": "a", "popularity": 3}, {"title": "b"}),
  ),
  "train.jsonl": (
    run_inputs.curve,
    _lines({"step": 1, "loss": 0.5}, {"step": 2, "eval_loss": 0.25}),
  ),
  "pretrain.jsonl": (
    writer.read_jsonl,
    _lines({"step": 1, "loss": 0.5}, {"step": 2, "eval_loss": 0.25}),
  ),
  "overrides_test.jsonl": (
    _overrides,
    _lines([0, "Given", "x"], [3, "Given", "y"]),
  ),
}


def _npy(**made):
  def write(path):
    np.save(path, **{"arr": np.ones((3, 4), np.float32)} | made)

  return write


def _rank_file(path):
  np.savez_compressed(path, target=np.arange(5), none=np.arange(5))


ARRAY_FILES = {
  "mapped.npy": (functools.partial(arrays.read_npy, mapped=True), _npy()),
  "read.npy": (arrays.read_npy, _npy(arr=np.asfortranarray(np.eye(3)))),
  "test.npz": (run_inputs.ranks, _rank_file),
}

HOW_OFTEN = hypothesis.settings(
  max_examples=300,
  deadline=None,
  derandomize=True,
  database=None,
  suppress_health_check=list(hypothesis.HealthCheck),
)


def _place(folder, name):
  """Returns where a file is, in a folder that its reader expects."""
  path = folder / "data" / name
  path.parent.mkdir(parents=True, exist_ok=True)
  return path


@pytest.mark.parametrize("name", JSON_FILES)
def test_whole_json_is_read(tmp_path, name):
  read, value = JSON_FILES[name]
  path = _place(tmp_path, name)
  path.write_text(json.dumps(value))
  read(path)


@pytest.mark.parametrize("name", TEXT_FILES | ARRAY_FILES)
def test_whole_lines_and_arrays_are_read(tmp_path, name):
  read, content = (TEXT_FILES | ARRAY_FILES)[name]
  path = _place(tmp_path, name)
  content(path) if callable(content) else path.write_bytes(content)
  read(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", JSON_FILES)
def test_damaged_json_is_read_or_named(tmp_path, name):
  read, value = JSON_FILES[name]
  path = _place(tmp_path, name)
  whole = json.dumps(value).encode()

  @HOW_OFTEN
  @hypothesis.given(st.data())
  def attempt(data):
    damage = data.draw(st.booleans())
    path.write_bytes(
      fuzzing.mutate_json(value, data)
      if damage
      else fuzzing.mutate(whole, data)
    )
    fuzzing.outcome(lambda: read(path), path)

  attempt()


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXT_FILES | ARRAY_FILES)
def test_damaged_lines_and_arrays_are_read_or_named(tmp_path, name):
  read, content = (TEXT_FILES | ARRAY_FILES)[name]
  path = _place(tmp_path, name)
  content(path) if callable(content) else path.write_bytes(content)
  whole = path.read_bytes()

  @HOW_OFTEN
  @hypothesis.given(st.data())
  def attempt(data):
    path.write_bytes(fuzzing.mutate(whole, data))
    fuzzing.outcome(lambda: read(path), path)

  attempt()


@pytest.mark.slow
def test_damaged_embeddings_are_read_or_named(tmp_path):
  whole = tmp_path / "whole"
  stored_embeddings.save(whole, np.eye(3, 8, dtype=np.float32), CATALOGUE, "e")
  names = sorted(path.name for path in whole.iterdir())

  @HOW_OFTEN
  @hypothesis.given(st.data())
  def attempt(data):
    folder = tmp_path / "embeddings"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    path = folder / data.draw(st.sampled_from(names))
    path.write_bytes(fuzzing.mutate(path.read_bytes(), data))
    fuzzing.outcome(
      lambda: stored_embeddings.load(folder, CATALOGUE, "e"), folder
    )

  attempt()


@pytest.mark.slow
def test_damaged_cf_scores_are_read_or_named(tmp_path):
  rows_ = examples.Examples(
    "test",
    np.arange(2),
    np.array([[0, 1], [2, -1]], np.int32),
    np.array([1, 0], np.int32),
    np.arange(2),
    np.arange(2),
  )
  whole = tmp_path / "whole" / "test.npy"
  scores.write_scores(
    whole,
    lambda part: np.ones((2, 3), np.float32)[part],
    rows_,
    CATALOGUE,
    {},
    1e9,
  )
  names = sorted(path.name for path in whole.parent.iterdir())

  @HOW_OFTEN
  @hypothesis.given(st.data())
  def attempt(data):
    folder = tmp_path / "test"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole.parent, folder)
    path = folder / data.draw(st.sampled_from(names))
    path.write_bytes(fuzzing.mutate(path.read_bytes(), data))
    fuzzing.outcome(
      lambda: scores.load_scores(folder / "test.npy", rows_, CATALOGUE), folder
    )

  attempt()
