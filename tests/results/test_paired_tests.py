"""Which rows are compared, with which ranks, and how the file keeps it."""

import dataclasses

import numpy as np
import pytest

from bigrec_jax.results import (
  comparisons,
  ground_file,
  ground_table,
  main_rows,
  metrics,
  paired_tests,
  rows,
  significance,
)

CUTOFFS = (1, 5, 10)
USERS = 120
EFFORT = significance.Effort(200, 500, 0)
GAMMAS = np.array([0.5, 2.0])


def _baseline(name, split, ranks):
  return rows.BaselineRow(
    name, split, **metrics.summarise(ranks, CUTOFFS), ci95={}
  )


def _world():
  """Returns an evaluation and the arrays of ranks/test.npz."""
  rng = np.random.default_rng(0)
  drawn = {
    name: rng.integers(0, most, USERS)
    for name, most in (
      *(("none", 60), ("popularity", 40), ("two", 30)),
      *(("most_pop", 80), ("cf", 25), ("random", 200), ("oracle", 9)),
      ("all_beams", 50),
    )
  }
  swept = rng.integers(0, 50, (2, USERS))
  arrays = {
    "none": drawn["none"],
    "popularity": drawn["popularity"],
    "popularity:gammas": GAMMAS,
    "popularity:ranks": swept,
    "popularity+cf:two_gammas": drawn["two"],
    "all_beams": drawn["all_beams"],
  }
  gamma = {
    "ndcg": {"1": 0.5, "5": 2.0, "10": 2.0},
    "hr": {"1": 0.5, "5": 0.5, "10": 2.0},
  }

  def bigrec(split, injection, protocol, gamma, ranks):
    values = metrics.summarise(ranks, CUTOFFS)
    return rows.MetricRow(split, injection, protocol, gamma, **values, ci95={})

  both = {"popularity": 1.0, "cf": 0.5}
  results = [
    bigrec("test", "none", "bigrec", None, drawn["none"]),
    bigrec("test", "popularity", "bigrec", gamma, drawn["popularity"]),
    bigrec("test", "popularity", "single_gamma", 2.0, drawn["popularity"]),
    bigrec("test", "popularity+cf", "two_gammas", both, drawn["two"]),
    bigrec("valid", "none", "bigrec", None, drawn["none"]),
  ]
  baselines = []
  for name in ("most_pop", "cf", "random", "oracle"):
    arrays[paired_tests.BASELINE + name] = drawn[name]
    baselines += [_baseline(name, s, drawn[name]) for s in ("valid", "test")]
  systems = [
    _baseline("all_beams", split, drawn["all_beams"])
    for split in ("valid", "test")
  ]
  found = ground_file.GroundFile(
    300,
    {"valid": USERS, "test": USERS},
    {},
    results,
    baselines,
    {},
    {},
    systems=systems,
  )
  return found, arrays


def test_the_family_is_as_documented():
  found, arrays = _world()
  tests = paired_tests.tests(found, arrays, EFFORT)
  pairs = {(t.a, t.b): set(t.because) for t in tests}
  pop, two = "bigrec+popularity", "bigrec+popularity+cf:two_gammas"
  singles = [f"{pop}:bigrec", f"{pop}:single_gamma"]
  want = {("bigrec", name): {"bigrec"} for name in ("most_pop", "cf", "random")}
  for name in (*singles, two, "all_beams"):
    want[name, "bigrec"] = {"bigrec", "part"}
    want[name, "most_pop"] = {"part"}
    want[name, "cf"] = {"best_single"}
  want[two, "cf"] |= {"part"}
  want["all_beams", "cf"] |= {"part"}
  assert paired_tests.best_single(found) == "cf"
  assert pairs == want
  asked = {(t.metric, t.k) for t in tests}
  assert asked == {("hr", 1), ("hr", 5), ("hr", 10), ("ndcg", 5), ("ndcg", 10)}
  assert len(tests) == len(want) * len(asked)
  holm = significance.holm([t.p for t in tests])
  assert [t.p_holm for t in tests] == holm


def test_words_are_a_part_of_what_was_fitted_with_them_and_a_single_model():
  found, arrays = _world()
  few = np.zeros(USERS, int)
  arrays = arrays | {"baseline:bm25": few, "fused": few, "older": few}
  systems = [
    _baseline(name, split, few)
    for name in ("fused", "older")
    for split in ("valid", "test")
  ]
  words = [_baseline("bm25", split, few) for split in ("valid", "test")]
  found = dataclasses.replace(
    found,
    baselines=[*found.baselines, *words],
    systems=[*found.systems, *systems],
    fitted={
      "fused": {"parameters": {"parts": ["text", "bm25"]}},
      "older": {"parts": ["text", "cf"]},
    },
  )
  assert paired_tests.best_single(found) == "bm25"
  tests = paired_tests.tests(found, arrays, EFFORT)
  because = {t.a: set(t.because) for t in tests if t.b == "bm25"}
  assert because["fused"] == {"part", "best_single"}
  assert because["older"] == because["all_beams"] == {"best_single"}


def test_a_gamma_a_cutoff_is_tested_by_its_own_ranks():
  found, arrays = _world()
  tests = paired_tests.tests(found, arrays, EFFORT)
  name = "bigrec+popularity:bigrec"
  for metric, k, row in (("hr", 5, 0), ("hr", 10, 1), ("ndcg", 5, 1)):
    test = comparisons.between(tests, name, "most_pop", metric, k)
    own = arrays["popularity:ranks"][row]
    other = arrays["baseline:most_pop"]
    measure = metrics.METRICS[metric]
    want = measure(own, k) - measure(other, k)
    assert test.difference == pytest.approx(want, abs=1e-12)
    assert test.n == USERS


def test_a_test_reads_the_same_from_both_sides():
  found, arrays = _world()
  tests = paired_tests.tests(found, arrays, EFFORT)
  one = comparisons.between(tests, "bigrec", "cf", "hr", 10)
  other = comparisons.between(tests, "cf", "bigrec", "hr", 10)
  assert other.difference == -one.difference and other.p == one.p
  assert other.ci95 == (-one.ci95[1], -one.ci95[0])
  assert comparisons.between(tests, "cf", "oracle", "hr", 10) is None


def test_the_file_keeps_tests_and_older_files_have_none(tmp_path):
  found, arrays = _world()
  found = dataclasses.replace(
    found, tests=paired_tests.tests(found, arrays, EFFORT)
  )
  value = found.to_json()
  again = ground_file.GroundFile.from_json(value, "f:")
  assert [t.to_json() for t in again.tests] == [
    t.to_json() | {"ci95": tuple(t.ci95), "because": tuple(t.because)}
    for t in found.tests
  ]
  del value["tests"]
  assert ground_file.GroundFile.from_json(value, "f:").tests == ()


def test_rows_without_ranks_are_left_out():
  """Of a workdir of before the ranks of baselines were kept."""
  found, arrays = _world()
  kept = {k: v for k, v in arrays.items() if not k.startswith("baseline:")}
  tests = paired_tests.tests(found, kept, EFFORT)
  names = {name for t in tests for name in (t.a, t.b)}
  assert names and not names & {"most_pop", "cf", "random"}


def test_the_table_says_the_tests_of_a_cutoff():
  found, arrays = _world()
  assert ground_table.of_tests(found) == ""
  found = dataclasses.replace(
    found, tests=paired_tests.tests(found, arrays, EFFORT)
  )
  text = ground_table.of_tests(found)
  assert "best single model on valid: cf" in text
  (line,) = [x for x in text.splitlines() if x.startswith("all_beams")]
  test = comparisons.between(found.tests, "all_beams", "cf", "ndcg", 10)
  assert f"{test.difference:+.4f}" in line
  assert "oracle" not in text


def test_an_evaluation_without_tests_says_why():
  found, arrays = _world()
  assert "remove metrics/ground_eval.json" in paired_tests.why_none(found)
  other = [
    dataclasses.replace(row, hr={"3": 0.1}, ndcg={"3": 0.1})
    for row in found.results
  ]
  found = dataclasses.replace(found, results=other, baselines=[], systems=[])
  assert paired_tests.tests(found, arrays, EFFORT) == []
  assert "config.ground.cutoffs" in paired_tests.why_none(found)


def test_names_for_people():
  assert main_rows.label("bigrec") == "BIGRec"
  assert main_rows.label("most_pop") == "Most popular"
  name = "bigrec+popularity+cf:two_gammas"
  assert main_rows.label(name) == "BIGRec + popularity + CF, two gammas"
  assert main_rows.label("bigrec+cf:bigrec") == "BIGRec + CF, gamma by K"
  assert comparisons.in_words(0.00001) == "< .0001"
  assert comparisons.in_words(0.0123) == ".0123"


def test_the_best_combination_is_valids():
  found, _ = _world()
  assert main_rows.best_combined(found) == "all_beams"
