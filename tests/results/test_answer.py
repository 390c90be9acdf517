"""The first screen, the table of systems, runs beside each other."""

import html
import json
import re

import numpy as np
import pytest

from bigrec_jax import config as config_lib, errors
from bigrec_jax.results import (
  answer,
  answer_section,
  compare_sections,
  cost_sections,
  intervals,
  other_runs,
  run_data,
  significance,
  systems_table,
)
from bigrec_jax.stages import report
from bigrec_jax.workdir import storage
from configs import common
from tests.results import made_up_runs


def _plain(text):
  shown = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
  return " ".join(html.unescape(re.sub("<[^>]*>", " ", shown)).split())


def test_the_best_is_set_against_the_strongest_not_the_simplest(tmp_path):
  ranks = made_up_runs.evaluated(tmp_path, 0)
  data = run_data.load(tmp_path)
  found = answer.of_run(data, 10)
  assert found.best.label == "calibrated fusion"
  assert found.baseline.label == "CF scores alone" and not found.corrected
  hits = [ranks[n] < 10 for n in ("calibrated fusion", "baseline:cf")]
  want = np.mean(hits[0]) - np.mean(hits[1])
  assert found.test.difference == pytest.approx(want)
  question, effort = significance.Question("hr", 10), answer._EFFORT
  tested = significance.compare(
    ranks["calibrated fusion"], ranks["baseline:cf"], question, effort
  )
  assert found.test.p_holm == tested.p < 0.05 and found.verdict == "beats"
  shown = _plain(answer_section.section(data, 0.0))
  assert (
    f"Calibrated fusion, which valid likes best, hits {np.mean(hits[0]):.1%}"
    in shown
  )
  assert (
    f"CF scores alone, the strongest baseline, {np.mean(hits[1]):.1%}" in shown
  )
  assert f"It beats CF scores alone: {100 * want:+.2f} points" in shown
  assert "BIGRec's text alone" in shown


def test_a_baseline_may_be_the_answer(tmp_path):
  made_up_runs.evaluated(tmp_path, 1, fused=59)
  found = answer.of_run(run_data.load(tmp_path), 10)
  assert found.best.row == "cf" and found.baseline.kind != "baseline"
  assert found.verdict != "loses to"
  shown = _plain(answer_section.section(run_data.load(tmp_path), 0.0))
  assert "the best of BIGRec's" in shown


def test_a_model_without_ranks_is_the_strongest_all_the_same(tmp_path):
  made_up_runs.evaluated(tmp_path, 0)
  row = {"hr": {"10": 0.5}, "ndcg": {"10": 0.3, "20": 0.35}}
  entry = {"valid": row, "test": row | {"hr_std": {"10": 0.03}}}
  storage.write_json(tmp_path / "metrics" / "cf.json", {"item_knn": entry})
  data = run_data.load(tmp_path)
  found = answer.of_run(data, 10)
  assert found.baseline.label == "Item kNN" and found.test is None
  assert "ranks of one of them are not kept" in answer_section.section(data, 0)
  table = _plain(
    systems_table.tables(run_data.systems(data, "test"), made_up_runs.USERS)
  )
  # 60 of 120 users: the exact interval, and over seeds a deviation.
  low, high = intervals.exact(60, made_up_runs.USERS)
  assert f"Item kNN – 0.5000 {low:.3f}–{high:.3f} seeds ± 0.0300" in table


def test_each_system_is_there_once_with_an_interval(tmp_path):
  made_up_runs.evaluated(tmp_path, 0)
  found = run_data.systems(run_data.load(tmp_path), "test")
  shown = systems_table.tables(found, made_up_runs.USERS)
  first, folded = shown.split("<details>")
  rows = re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', first)
  labels = [label for label, _ in rows]
  assert len(labels) == 2 * len(set(labels)) == 2 * 6
  for _, cells in rows:
    cells = re.findall("<td>(.*?)</td>", cells)
    assert len(cells) == len(made_up_runs.CUTOFFS)
    assert all('class="ci"' in cell for cell in cells)
  assert "chooses gamma anew for each metric and K" in folded
  assert folded.count("BIGRec + popularity") == 2


def test_intervals_are_exact_where_a_bootstrap_has_no_width():
  low, high = intervals.exact(0, 400)
  assert low == 0 and high == pytest.approx(1 - 0.025 ** (1 / 400))
  for metric in ("hr", "ndcg"):
    none = np.full(400, 99)
    assert tuple(intervals.of_ranks(none, metric, 10, 50)) == (low, high)
    assert intervals.of_value(metric, 0.0, 400, [0.0, 0.0]) == (low, high)
  low, high = intervals.of_value("hr", 1.0, 400, [1.0, 1.0])
  assert high == 1 and low == pytest.approx(0.025 ** (1 / 400))
  assert intervals.of_value("hr", 0.1, 400, [0.08, 0.12]) == [0.08, 0.12]
  assert intervals.of_value("ndcg", 0.1, 400, None) is None
  assert intervals.of_value("hr", 1 / 3, 400, None) is None  # Over seeds.
  assert intervals.of_value("hr", 0.0, None, None) is None


def test_costs_are_those_of_the_stages(tmp_path):
  made_up_runs.evaluated(tmp_path, 0)
  stage = {"count": 40, "unit": "steps", "per_second": 0.5}
  known = {
    "train": stage | {"seconds": 5400.0},
    "embed": stage | {"seconds": 1800.0},
  }
  storage.write_json(tmp_path / "metrics" / "throughput.json", known)
  data = run_data.load(tmp_path)
  shown = _plain(cost_sections.costs(data, 3.0))
  assert "train 40 steps 1 h 30 min 75% 0.5 steps/s 4.50" in shown
  assert "all – 2 h 0 min – – 6.00" in shown
  assert "price_per_hour" in _plain(cost_sections.costs(data, 0.0))
  assert "2 h 0 min all stages' last runs; 6.00 at 3 an hour" in _plain(
    answer_section.section(data, 3.0)
  )


def test_seeds_of_a_setting_are_one_column(tmp_path):
  ranks = [made_up_runs.evaluated(tmp_path / f"s{n}", n) for n in range(3)]
  other = made_up_runs.evaluated(tmp_path / "other", 0, fused=40)
  found = other_runs.groups(
    [other_runs.read(tmp_path / n) for n in ("s0", "s1", "other", "s2")]
  )
  assert [group.label for group in found] == ["s0, s1, s2: 3 seeds", "other"]
  name = "calibrated fusion"
  values = [np.mean(own[name] < 10) for own in ranks]
  shown = _plain(compare_sections.runs(found))
  mean, spread = np.mean(values), np.std(values, ddof=1)
  assert (
    f"{name} {mean:.4f} ± {spread:.4f} {np.mean(other[name] < 10):.4f}" in shown
  )
  best = found[1].best
  assert best == "cf"  # Of a bad fusion the valid figures say so.
  tested = significance.compare(
    other["baseline:cf"],
    np.stack([own[name] for own in ranks]),
    significance.Question("ndcg", 10),
    compare_sections._EFFORT,
  )
  assert f"other: CF scores alone {tested.difference:+.4f}" in shown
  path = tmp_path / "other" / "metrics" / "ground_eval.json"
  content = storage.read_json(path)
  content["fingerprints"]["examples"]["test"] = "others"
  storage.write_json(path, content)
  found = [*found[:1], other_runs.Group([other_runs.read(tmp_path / "other")])]
  assert "other test users, or no ranks" in compare_sections.runs(found)


def test_a_report_compares_and_refuses_what_is_no_run(tmp_path):
  for n in range(2):
    made_up_runs.evaluated(tmp_path / f"s{n}", n)
  tree = common.get_config()
  tree.report.compare = f"{tmp_path / 's1'}, {tmp_path / 's1'}"
  own = config_lib.from_config_dict(tree)
  report.run(own, tmp_path / "s0")
  text = (tmp_path / "s0" / "report" / "index.html").read_text()
  assert '<section id="compare">' in text and "s0, s1: 2 seeds" in text
  assert text.index('<section id="answer">') < text.index("<table")
  tree.report.compare = str(tmp_path / "none")
  own = config_lib.from_config_dict(tree)
  with pytest.raises(errors.UserError, match="report.compare: .*none found"):
    report.run(own, tmp_path / "s0")
  assert json.loads((tmp_path / "s0" / "config.json").read_text())
