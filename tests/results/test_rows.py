"""Typed rows: out to JSON and back, and what is refused."""

import dataclasses
import json
import re

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.results import rows
from bigrec_jax.workdir import storage

TASK = rows.TaskRow(
  "test", "tallrec", {"auc": 0.75, "n_yes": 3}, {"auc": (0.7, 0.8)}, 41, (0, 1)
)
BY_CUTOFF = {"1": 0.0, "10": 0.25}
CI95 = {"ndcg": {"1": (0.0, 0.1)}, "hr": {"10": (0.2, 0.3)}}


def test_task_rows_come_back_from_their_file(tmp_path):
  path = tmp_path / "metrics" / "yes_no.json"
  rows.write_task(path, [TASK, TASK])
  assert rows.read_task(path) == (TASK, TASK)
  assert storage.read_json(path)["schema"] == 1


def test_values_of_examples_come_back_from_their_own_file(tmp_path):
  path, system = tmp_path / "yes_no.npz", "a/b, by valid"
  each = {"rank@5": np.array([0, 7]), "label": np.array([True, False])}
  row = dataclasses.replace(TASK, system=system, each=each)
  rows.write_each(path, [row, TASK])
  found = rows.read_each(path)
  assert {key: own.tolist() for key, own in found.items()} == {
    ("test", system, "rank@5"): [0, 7],
    ("test", system, "label"): [True, False],
  }
  assert "each" not in row.to_json()
  rows.write_each(path, [TASK])
  assert rows.read_each(path) == {}
  np.savez(path, rank=np.zeros(2))
  with pytest.raises(errors.UserError, match="array 'rank' found, <split>/"):
    rows.read_each(path)


@pytest.mark.parametrize(
  "gamma",
  [
    None,
    0,
    1.5,
    {"ndcg": {"1": -1.0, "10": 2}, "hr": {"1": 3.0, "10": 0.5}},
    {"popularity": 0.0, "cf": 12.0},
  ],
)
def test_rows_of_ground_eval_come_back(gamma):
  row = rows.MetricRow(
    "test", "cf", "bigrec", gamma, BY_CUTOFF, BY_CUTOFF, CI95
  )
  assert rows.MetricRow.from_json(row.to_json(), "here") == row
  base = rows.BaselineRow("oracle", "valid", BY_CUTOFF, BY_CUTOFF, {})
  assert rows.BaselineRow.from_json(base.to_json(), "here") == base
  # Rows of earlier versions may lack intervals and gamma.
  old = {k: v for k, v in row.to_json().items() if k not in ("gamma", "ci95")}
  assert rows.MetricRow.from_json(old, "here").ci95 == {}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"split": 3}, r"results\[1\].split: 3 found, a text expected"),
    (
      {"metrics": {"auc": "high"}},
      r"results\[1\].metrics.auc: 'high' found, a",
    ),
    ({"metrics": [1]}, r"metrics: \[1\] found, an object expected"),
    ({"ci95": {"auc": [1, 0]}}, r"ci95.auc: \[1, 0\] found, \[low, high\]"),
    ({"n": 1.5}, "n: 1.5 found, a whole number expected"),
    ({"n": True}, "n: True found, a whole number expected"),
    ({"seeds": "01"}, "seeds: '01' found, a list expected"),
  ],
)
def test_a_wrong_field_is_named(tmp_path, change, message):
  path = tmp_path / "yes_no.json"
  good = TASK.to_json()
  path.write_text(json.dumps({"schema": 1, "results": [good, good | change]}))
  with pytest.raises(errors.UserError, match=message) as caught:
    rows.read_task(path)
  assert f"{path}: results[1]." in str(caught.value)


def test_a_number_beyond_all_floats_is_not_finite(tmp_path):
  path = tmp_path / "yes_no.json"
  text = json.dumps({"schema": 1, "results": [TASK.to_json()]})
  path.write_text(re.sub(r'"auc": [0-9.]+', '"auc": 1e999', text))
  with pytest.raises(errors.UserError, match="1e999 found, a finite number"):
    rows.read_task(path)


def test_a_missing_field_and_another_version_are_said(tmp_path):
  path = tmp_path / "yes_no.json"
  storage.write_json(path, {"results": [{"split": "test"}]})
  with pytest.raises(
    errors.UserError, match="split found, system expected too"
  ):
    rows.read_task(path)
  storage.write_json(path, {"schema": 2, "results": []})
  with pytest.raises(errors.UserError, match="schema 2 found, 1 expected"):
    rows.read_task(path)
  storage.write_json(path, [TASK.to_json()])
  with pytest.raises(errors.UserError, match="an object expected"):
    rows.read_task(path)


def test_a_gamma_of_no_known_form_is_refused():
  row = rows.MetricRow("test", "cf", "bigrec", 1, BY_CUTOFF, BY_CUTOFF, CI95)
  with pytest.raises(errors.UserError, match="here.gamma: {'cf': 1} found"):
    rows.MetricRow.from_json(row.to_json() | {"gamma": {"cf": 1}}, "here")


def _with(*names):
  return rows.TaskRow("test", names[0], dict.fromkeys(names, 0.0), {}, 1, [0])


def test_rows_without_a_metric_in_common_get_tables_of_their_own():
  one, two = _with("a", "b", "c", "d"), _with("e", "f", "g")
  link = _with("d", "e")
  assert rows.alike([one, two, one]) == [[one, one], [two]]
  assert rows.alike([one, two, link]) == [[one, two, link]]
  few = [_with("a", "b"), _with("c")]
  assert rows.alike(few) == [few]
