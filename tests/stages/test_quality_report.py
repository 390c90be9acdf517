"""What the report says of a real evaluation: tests, groups, hits, the probe."""

import dataclasses
import html
import json
import re
import shutil

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.data.prepared import examples as examples_lib
from bigrec_jax.results import (
  contamination as contamination_lib,
  main_rows,
  metrics,
  page,
  paired_tests,
  run_data,
  segment_sections,
  segments,
  significance_sections,
)
from bigrec_jax.stages import contamination, ground_eval, report
from bigrec_jax.stages.session import Session
from bigrec_jax.workdir import parts as parts_lib, paths as paths_lib
from tests import demo_workdir

TITLES = 31


def _config(**report_keys):
  config = demo_workdir.config()
  changed = dataclasses.replace(config.report, **report_keys)
  return dataclasses.replace(config, report=changed)


@pytest.fixture(scope="module")
def probed(evaluated_demo, tmp_path_factory):
  """The tiny demo with a probe and a report."""
  root = tmp_path_factory.mktemp("probed") / "run"
  shutil.copytree(evaluated_demo, root)
  config = _config(contamination=TITLES)
  # How users' titles are decoded is nothing to the probe.
  decoding = dataclasses.replace(
    config.generate, constrained=True, lookahead=2, prior="sasrec"
  )
  contamination.run(dataclasses.replace(config, generate=decoding), root)
  report.run(config, root)
  return root


@pytest.fixture(scope="module")
def data(probed):
  return run_data.load(probed)


def _plain(section: str) -> str:
  text = re.sub(r"<svg.*?</svg>|<[^>]+>", " ", section, flags=re.DOTALL)
  return " ".join(html.unescape(text).split())


def test_ranks_of_every_row_are_kept_and_are_its_own(probed, data):
  paths = paths_lib.Paths(probed)
  for split in ("valid", "test"):
    arrays = dict(np.load(paths.ranks / f"{split}.npz"))
    for row in data.ground.baselines_of(split):
      ranks = arrays[paired_tests.BASELINE + row.name]
      found = metrics.summarise(ranks, (1, 10))
      for k in ("1", "10"):
        assert found["hr"][k] == row.hr[k] and found["ndcg"][k] == row.ndcg[k]
  arrays = dict(np.load(paths.ranks / "test.npz"))
  for one in paired_tests.ranked(data.ground, arrays).values():
    for metric, by in (("hr", one.row.hr), ("ndcg", one.row.ndcg)):
      for k, value in by.items():
        ranks = one.ranks(metric, int(k))
        assert metrics.METRICS[metric](ranks, int(k)) == value, one.name


def test_the_tests_are_in_file_and_page(data):
  tests = data.ground.tests
  assert {t.k for t in tests} == {1, 5, 10, 20}
  shown = _plain(significance_sections.tests(data))
  assert f"{len(tests):,} tests between" in shown
  assert "on the same 24 test rows of 14 users" in shown


def test_usual_draws_leave_an_older_evaluation_current(probed):
  for draws, named in ((100_000, False), (77, True)):
    config = demo_workdir.config()
    ground = dataclasses.replace(config.ground, permutations=draws)
    session = Session(dataclasses.replace(config, ground=ground), probed)
    assert session.make(*ground_eval.needed(session)) == set()
    inputs = ground_eval.STAGE.inputs(session)
    assert ("permutations" in inputs["ground"]) is named


def test_an_older_evaluation_is_read_and_told(data):
  old = dataclasses.replace(
    data,
    ground=dataclasses.replace(data.ground, tests=(), fitted={}),
    ranks={k: v for k, v in data.ranks.items() if ":" not in k},
    contamination=None,
  )
  assert "Not here: paired tests" in significance_sections.tests(old)
  assert "Not here" in segment_sections.where_from(old)
  assert "Not here" in significance_sections.probe(old.contamination)
  assert list(main_rows.closely(old))[0] == "bigrec"


def _users(root):
  paths = paths_lib.Paths(root)
  train = examples_lib.load_examples(paths, "train", -1, 0)
  session = Session(demo_workdir.config(), root)
  test = session.examples("test")
  return segments.users(test, train, len(session.catalogue))


def test_groups_have_their_users_metrics(probed, data):
  users = _users(probed)
  shown = _plain(segment_sections.by_segment(data, users))
  ranks = main_rows.closely(data)
  for name, mask in segments.by_transition(users.known_transition):
    value = metrics.hit_rate(ranks["bigrec"][mask], 10)
    assert f"{name} {int(mask.sum())} {value:.4f}" in shown


def test_groups_of_other_users_are_not_shown(probed, data):
  users = _users(probed)
  few = segments.Users(*(x[:5] for x in dataclasses.astuple(users)))
  assert "Not here" in segment_sections.by_segment(data, few)
  assert "Not here" in segment_sections.by_segment(data, None)


def test_hits_add_up(data):
  best = main_rows.best_combined(data.ground)
  hits = int((main_rows.closely(data)[best] < 10).sum())
  shown = segment_sections.where_from(data)
  if hits:
    counts = re.findall(r">n = (\d+)<", shown)
    assert sum(map(int, counts)) == hits
  else:
    assert "hits no test user" in shown


def test_what_was_tried_is_counted(data):
  shown = _plain(significance_sections.chosen(data))
  curve = data.ground.gamma_curves["popularity"]
  assert f"gamma of BIGRec + popularity {len(curve.gamma)} valid" in shown
  assert f"BM25, k1 and b {int(data.ground.bm25['tried'])} valid" in shown
  assert "epochs of the adapter 2 loss on valid" in shown


def test_what_a_system_says_is_shown_and_escaped(data):
  fitted = {
    "all_beams": {"says": ["Text counts <half>."], "tried": 7},
    "other": {"temperature": 0.5},
  }
  changed = dataclasses.replace(
    data, ground=dataclasses.replace(data.ground, fitted=fitted)
  )
  shown = significance_sections.chosen(changed)
  assert page.text("Text counts <half>.") in shown
  assert "temperature: 0.5" in shown
  assert "all beams 7 valid" in _plain(shown)


def test_the_probe_is_of_the_base_alone(probed, data):
  found = data.contamination
  assert found.num_titles == TITLES // 2 * 2 <= found.eligible
  assert found == contamination_lib.read(paths_lib.Paths(probed).contamination)
  # A random model: it knows no half from the other.
  assert abs(found.log_probability.difference) < 0.5
  assert found.log_probability.own < 0 and 0 <= found.agreement.own <= 1
  assert f"{found.num_titles:,} titles" in _plain(
    significance_sections.probe(found)
  )


def _alone(base, first, second) -> float:
  """One text without padding, a token at a time."""
  text = np.array([[*first, *second]], np.int32)
  places = np.arange(text.shape[1], dtype=np.int32)[None]
  model, given = base.model.executable({"params": base.params})
  hidden = model.apply(given, text, places, np.ones_like(text), True)
  logits = model.apply(given, hidden, method="logits")
  total = 0.0
  for place in range(len(first), text.shape[1]):
    row = np.asarray(logits)[0, place - 1].astype(np.float64)
    row -= row.max()
    total += row[text[0, place]] - np.log(np.exp(row).sum())
  return total / len(second)


def test_scores_are_those_of_each_text_alone(probed, tmp_path):
  tree = demo_workdir.config()
  mesh = dataclasses.replace(tree.mesh, data=1, fsdp=8)
  changed = dataclasses.replace(_config(contamination=9), mesh=mesh)
  session = Session(changed, probed)
  assert session.make(*contamination._needed(session)) == set()
  cut = contamination._cut(session)
  with parts_lib.Parts(tmp_path / "parts", "x") as parts:
    own, exchanged = contamination._scores(session, cut, parts)
  assert len(own) == 8
  for n in range(8):
    for found, first in ((own, n), (exchanged, n ^ 1)):
      want = _alone(session.base, cut.first[first], cut.second[n])
      assert found[n] == pytest.approx(want, abs=1e-4)


def test_a_kept_probe_is_current_and_the_same_again(probed, tmp_path, capsys):
  root = tmp_path / "run"
  shutil.copytree(probed, root)
  config = _config(contamination=TITLES)
  contamination.run(config, root)
  path = paths_lib.Paths(root).contamination
  assert f"{path} is current" in capsys.readouterr().out
  before = json.loads(path.read_text())
  path.unlink()
  contamination.run(config, root)
  assert json.loads(path.read_text()) == before


def test_a_probe_of_no_titles_is_refused(probed):
  with pytest.raises(errors.UserError, match="report.contamination: 0 found"):
    contamination.run(_config(contamination=0), probed)
  with pytest.raises(errors.UserError, match="contamination: 1 found"):
    contamination.run(_config(contamination=1), probed)


def test_the_page_has_the_sections(probed):
  text = (probed / "report" / "index.html").read_text()
  for anchor in ("tests", "hits", "segments", "chosen", "contamination"):
    assert f'<section id="{anchor}">' in text
