"""Measures of lists against loops over them."""

import json
import math

import numpy as np
import pytest

from bigrec_jax.results import list_quality, list_sections, run_data
from bigrec_jax.workdir import paths as paths_lib

ITEMS = 30


def _write(path, rows):
  path.parent.mkdir(exist_ok=True)
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def lists():
  rng = np.random.default_rng(0)
  found = np.stack([rng.permutation(ITEMS - 5)[:4] for _ in range(9)])
  found[3, 2:] = -1
  return found


def test_measures_are_those_of_loops(lists):
  rng = np.random.default_rng(1)
  popularity = rng.integers(0, 9, ITEMS)
  titles = [f"Saga {n % 4} of {n % 7}, Part {n}" for n in range(ITEMS)]
  found = list_quality.measures(lists, popularity, titles)
  shown = [int(i) for own in lists for i in own if i >= 0]
  assert found["coverage"] == len(set(shown)) / ITEMS
  counts = [shown.count(i) for i in range(ITEMS)]
  apart = sum(abs(a - b) for a in counts for b in counts)
  assert found["gini"] == pytest.approx(apart / (2 * ITEMS * sum(counts)))
  total = sum(popularity) + ITEMS
  bits = [-math.log2((popularity[i] + 1) / total) for i in shown]
  assert found["novelty"] == pytest.approx(np.mean(bits))
  words = [set(t.lower().replace(",", "").split()) for t in titles]
  variety = []
  for own in lists:
    own = [words[i] for i in own if i >= 0]
    pairs = [
      1 - len(a & b) / len(a | b) for n, a in enumerate(own) for b in own[:n]
    ]
    variety.append(np.mean(pairs))
  assert found["diversity"] == pytest.approx(np.mean(variety))


def test_gini_is_0_of_equal_and_nearly_1_of_one():
  assert list_quality.gini(np.arange(ITEMS)[:, None], ITEMS) == 0
  same = np.full((9, 1), 3)
  assert list_quality.gini(same, ITEMS) == pytest.approx(1 - 1 / ITEMS)


def test_lists_of_a_workdir_are_measured(tmp_path, lists):
  paths = paths_lib.Paths(tmp_path)
  assert "Not here" in list_sections.beyond_accuracy(run_data.load(tmp_path))
  catalogue = [
    {"item": n, "external_id": f"X{n}", "title": f"Title {n}", "popularity": n}
    for n in range(ITEMS)
  ]
  _write(paths.catalogue, catalogue)
  rows = [
    {"recommendations": [{"external_id": f"X{i}"} for i in own if i >= 0]}
    for own in lists
  ]
  rows[0]["recommendations"].append({"external_id": "of another catalogue"})
  _write(paths.recommendations, rows)
  shown = list_sections.beyond_accuracy(run_data.load(tmp_path))
  coverage = list_quality.coverage(lists, ITEMS)
  assert f"recommendations.jsonl</th><td>{coverage:.4f}</td>" in shown
  assert f"most popular to everybody</th><td>{10 / ITEMS:.4f}</td>" in shown
  assert "The first 10 items of each list" in shown
