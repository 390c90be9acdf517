"""Lists by whatever valid may choose, against the ranks of the evaluation."""

import collections
import dataclasses
import json
import shutil
import warnings

import jax
import numpy as np
import pytest

import bigrec_jax
from bigrec_jax import errors
from bigrec_jax.data.prepared import item_groups
from bigrec_jax.recommend import fitted_on
from bigrec_jax.results import (
  chosen as chosen_lib,
  ground_file,
  item_fairness,
  list_metrics,
  list_quality,
  paired_tests,
)
from bigrec_jax.stages import (
  every_list,
  ground_eval,
  recommend,
  session,
  train_cf,
)
from bigrec_jax.workdir import paths, settings
from tests import demo_workdir

pytestmark = pytest.mark.slow

ASKED = {
  "cf_model": "sasrec,item_knn",
  "beams": "all",
  "fusion": "calibrated",
  "likelihood": 20,
}


@pytest.fixture(scope="module")
def workdir(evaluated_demo, tmp_path_factory):
  """A workdir that is evaluated by every system."""
  root = tmp_path_factory.mktemp("systems") / "workdir"
  shutil.copytree(evaluated_demo, root)
  own = demo_workdir.config(**ASKED)
  ground_eval.run(own, root)
  settings.remember(paths.Paths(root), own, "demo", {})
  return root


def _choose(workdir, system):
  """Makes chosen.json say that valid chose a system."""
  kept, made_from = chosen_lib.read(workdir / "chosen.json")
  fitted = ground_file.read(workdir / "metrics" / "ground_eval.json").fitted
  own = fitted[system].get("parameters", fitted[system])
  chosen = dataclasses.replace(
    kept, system=system, fitted=own, cf_model="sasrec,item_knn"
  )
  chosen_lib.write(workdir / "chosen.json", chosen, "20", made_from)


def _users(workdir, run):
  path = workdir / "users.jsonl"
  with open(path, "w") as file:
    for n, history in enumerate(run.examples("test").history):
      ids = [run.catalogue.external_ids[i] for i in history if i >= 0]
      file.write(json.dumps({"user": f"u{n}", "history": ids}) + "\n")
  return str(path)


@pytest.mark.parametrize("system", chosen_lib.SYSTEMS)
def test_a_target_is_listed_where_its_rank_says(workdir, system):
  _choose(workdir, system)
  run = session.Session(demo_workdir.config(**ASKED), workdir)
  config = demo_workdir.config(
    **ASKED,
    histories=_users(workdir, run),
    k=150,
    exclude_history=False,
    fallback=False,
  )
  recommend.run(config, workdir)
  lines = (workdir / "recommendations.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  ranks = np.load(workdir / "ranks" / "test.npz")[system]
  catalogue, targets = run.catalogue, run.examples("test").target
  assert len(rows) == len(ranks) == 24
  rows_of = collections.Counter(catalogue.groups.tolist())
  for n, row in enumerate(rows):
    listed = [
      catalogue.index_of_external_id(entry["external_id"])
      for entry in row["recommendations"]
    ]
    titles = catalogue.groups[listed].tolist()
    assert len(set(titles)) == len(titles) == len(rows_of)
    place = titles.index(catalogue.groups[targets[n]])
    # A rank counts all items, those whose title was listed before among them.
    again = sum(rows_of[title] - 1 for title in titles[:place])
    assert place <= ranks[n] <= place + again
    scores = [entry["score"] for entry in row["recommendations"]]
    assert scores == sorted(scores, reverse=True)
    assert row["provenance"]["system"] == system
    assert row["provenance"]["injection"] == "none"
    fused = "fusion" in system
    assert ("cf_rank" in row["recommendations"][0]) == fused


def test_a_named_injection_is_the_published_form(workdir):
  _choose(workdir, "calibrated fusion")
  kept, _ = chosen_lib.read(workdir / "chosen.json")
  for injection in {"popularity", kept.injection} - {"none"}:
    own = bigrec_jax.Recommender.load(workdir, injection=injection)
    assert own.provenance.system is None
    assert own.provenance.injection == injection
    assert own.provenance.gamma is not None


@pytest.mark.parametrize("system", chosen_lib.SYSTEMS)
def test_a_second_call_compiles_nothing_and_writes_nothing(workdir, system):
  _choose(workdir, system)
  before = demo_workdir.snapshot(workdir)
  own = bigrec_jax.Recommender.load(workdir)
  assert own.provenance.system == system
  run = session.Session(demo_workdir.config(**ASKED), workdir)
  titles = run.catalogue.titles
  first = own([titles[3:7]])
  compiled = []

  def listen(name, *_, **__):
    if "compile" in name:
      compiled.append(name)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    again = own([titles[3:7]])
    other = own([titles[23:27]])
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  assert again == first and len(other[0]) == 10
  assert not compiled
  assert not {item.title for item in first[0]} & set(titles[3:7])
  assert demo_workdir.snapshot(workdir) == before


def test_valid_chooses_among_systems_too(workdir):
  found = ground_file.read(workdir / "metrics" / "ground_eval.json")
  recommend_best = chosen_lib.best(found, "sasrec", lambda name: True)
  best = max(
    [one.ndcg for one in chosen_lib.candidates(found)]
    + [row.ndcg["20"] for row in found.systems if row.split == "valid"]
  )
  own = {r.name: r.ndcg["20"] for r in found.systems if r.split == "valid"}
  ndcg = own.get(recommend_best.system)
  if ndcg is None:
    ndcg = max(one.ndcg for one in chosen_lib.candidates(found))
  assert ndcg == best


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"base": "caser"}, "its weights don't fit its columns"),
    ({"parts": ["text", "caser"], "base": "text"}, "scores of caser found"),
    ({"words": None}, "a part bm25 without words"),
    ({"likelihood": -1}, "likelihood: -1 found, at least 0 expected"),
  ],
)
def test_a_fusion_that_is_none_is_one_line(workdir, change, said):
  _choose(workdir, "calibrated fusion")
  kept, made_from = chosen_lib.read(workdir / "chosen.json")
  odd = dataclasses.replace(kept, fitted={**kept.fitted, **change})
  chosen_lib.write(workdir / "chosen.json", odd, "20", made_from)
  with pytest.raises(errors.UserError, match=said):
    bigrec_jax.Recommender.load(workdir)


def _fitted(workdir, system):
  found = ground_file.read(workdir / "metrics" / "ground_eval.json")
  return found, found.fitted[system]["parameters"]


def test_a_fusion_carries_the_k1_and_b_that_valid_chose(workdir):
  for system in chosen_lib.FUSIONS:
    found, fitted = _fitted(workdir, system)
    models = ["sasrec", "item_knn", "bm25"]
    assert fitted["parts"] == ["text", *models, "popularity"]
    assert fitted["words"] == {key: found.bm25[key] for key in ("k1", "b")}


def test_a_choice_of_before_there_were_words_makes_its_lists(workdir):
  system = "reciprocal-rank fusion"
  _choose(workdir, system)
  histories = [_titles(workdir)[3:7]]
  now = bigrec_jax.Recommender.load(workdir)(histories, 20)
  kept, made_from = chosen_lib.read(workdir / "chosen.json")
  fitted = dict(kept.fitted, parts=["text", "sasrec", "popularity"])
  del fitted["words"]
  older = dataclasses.replace(kept, fitted=fitted | {"base": "text"})
  chosen_lib.write(workdir / "chosen.json", older, "20", made_from)
  own = bigrec_jax.Recommender.load(workdir)(histories, 20)
  assert own != now and len(own[0]) == 20
  assert own[0].provenance.cf_model == "sasrec"
  # Three lists, each of which gives 1 / 61 at most; five are now.
  assert 0 < own[0][0].score <= 3 / 61 < now[0][0].score <= 5 / 61


def test_a_part_that_was_made_again_is_told_and_not_used(workdir, tmp_path):
  root = tmp_path / "workdir"
  shutil.copytree(workdir, root)
  _choose(root, "calibrated fusion")
  own = demo_workdir.config(**ASKED)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    listed = bigrec_jax.Recommender.load(root)
  assert listed.provenance.cf_model == "sasrec, item_knn"
  other = dataclasses.replace(own.cf, model="item_knn", neighbours=2)
  train_cf.run(dataclasses.replace(own, cf=other), root)
  said = "is of CF model item_knn .* --mode=ground_eval"
  with pytest.warns(UserWarning, match=said):
    plain = bigrec_jax.Recommender.load(root)
  assert plain.provenance.system is plain.provenance.cf_model is None
  # What doesn't read that model stands; what was never fitted is refused.
  kept, made_from = chosen_lib.read(root / "chosen.json")
  named = bigrec_jax.Recommender.load(root, injection="cf")
  assert named.provenance.cf_model == "sasrec"
  cf = {**made_from["cf"], "sasrec": "of another training"}
  chosen_lib.write(root / "chosen.json", kept, "20", made_from | {"cf": cf})
  with pytest.raises(errors.UserError, match="of CF model sasrec of another"):
    bigrec_jax.Recommender.load(root, injection="cf")
  chosen_lib.write(
    root / "chosen.json",
    dataclasses.replace(kept, system="", fitted={}),
    "20",
    {key: name for key, name in made_from.items() if key != "cf"},
  )
  if "cf" in kept.parts:  # A file of before there were names.
    with pytest.warns(UserWarning, match="of CF model sasrec no name"):
      bigrec_jax.Recommender.load(root)
  # The very same training again is what was chosen by.
  train_cf.run(dataclasses.replace(own, cf=other), root)
  again = dataclasses.replace(own.cf, model="item_knn")
  train_cf.run(dataclasses.replace(own, cf=again), root)
  _choose(root, "calibrated fusion")
  chosen_lib.write(
    root / "chosen.json",
    chosen_lib.read(root / "chosen.json")[0],
    "20",
    made_from,
  )
  assert bigrec_jax.Recommender.load(root).provenance.system


def test_popularity_and_the_judge_of_titles_are_named_too(workdir):
  own = demo_workdir.config(**ASKED)
  run = session.Session(own, workdir)
  _choose(workdir, "calibrated fusion")
  kept, made_from = chosen_lib.read(workdir / "chosen.json")
  for key, what in (
    ("popularity", "popularity"),
    ("likelihood", "the likelihood's adapter"),
  ):
    args = run, workdir / "chosen.json", kept
    assert not fitted_on.problem(*args, made_from, made_from["adapter"])
    odd = made_from | {key: "0123"}
    said = fitted_on.problem(*args, odd, made_from["adapter"])
    assert f"is of {what} 0123, not of" in said
  assert not fitted_on.note(run, kept, made_from)
  beams = own.generate.num_beams
  few = dataclasses.replace(own.generate, num_beams=beams + 1)
  few = session.Session(dataclasses.replace(own, generate=few), workdir)
  said = fitted_on.note(few, kept, made_from)
  assert f"(num_beams: {beams} -> {beams + 1}); --mode=ground_eval" in said


def _titles(workdir):
  run = session.Session(demo_workdir.config(**ASKED), workdir)
  return run.catalogue.titles


def _compare_ablations(root):
  """Each part that is there has a row without it, which nothing chooses."""
  found = ground_file.read(root / "metrics" / "ground_eval.json")
  names = [
    f"calibrated fusion without {part}" for part in ("popularity", "text")
  ]
  rows = {(row.name, row.split): row for row in found.systems}
  for name in names:
    assert {split for of, split in rows if of == name} == {"valid", "test"}
    assert found.fitted[name]["tried"] == 7
    of_it = chosen_lib.best(found, "", lambda one, name=name: one == name)
    assert not of_it.system
  ranks = np.load(root / "ranks" / "test.npz")
  assert not np.array_equal(ranks[names[1]], ranks["calibrated fusion"])


def test_words_need_no_cf_model(evaluated_demo, tmp_path):
  root = tmp_path / "workdir"
  shutil.copytree(evaluated_demo, root)
  own = demo_workdir.config(
    fusion="calibrated", cf_model="", fusion_ablations=("popularity", "text")
  )
  ground_eval.run(own, root)
  _compare_ablations(root)
  settings.remember(paths.Paths(root), own, "demo", {})
  found, fitted = _fitted(root, "calibrated fusion")
  assert fitted["parts"] == ["text", "bm25", "popularity"]
  best = chosen_lib.best(found, "", lambda name: name == "calibrated fusion")
  assert best.system == "calibrated fusion" and not best.models_in_use
  kept, made_from = chosen_lib.read(root / "chosen.json")
  chosen_lib.write(root / "chosen.json", best, "20", made_from)
  recommender = bigrec_jax.Recommender.load(root)
  titles = _titles(root)
  (listed,) = recommender([titles[3:7]])
  assert len(listed) == 10 and listed.provenance.cf_model is None
  assert listed[0].cf_rank is None


def test_every_ranker_has_lists_as_its_ranks_say(workdir):
  """And groups of items in them, beside what ground_eval wrote before."""
  own = demo_workdir.config(**ASKED)
  ground = dataclasses.replace(own.ground, item_fairness=(5, 10))
  own = dataclasses.replace(own, ground=ground)
  before = (workdir / "metrics" / "ground_eval.json").read_bytes()
  ground_eval.run(own, workdir)
  assert (workdir / "metrics" / "ground_eval.json").read_bytes() == before
  run = session.Session(own, workdir)
  found = ground_file.read(run.paths.ground_eval)
  with np.load(workdir / "ranks" / "test.npz") as file:
    arrays = {name: file[name] for name in file}
  ranked = paired_tests.ranked(found, arrays)
  groups, targets = run.catalogue.groups, run.examples("test").target
  run.walk.ask_for(may_make_needs=False)
  with run.parts("test", {}) as parts:
    lists = {
      name: make() for name, make in every_list.every(run, found, 10, parts)
    }
  expected = {n for n in ranked if not n.endswith(":bigrec")}
  # A model that a fusion alone reads has lists and no row of its own.
  assert set(lists) == {*expected, "item_knn"} and len(expected) > 12
  assert {len(own) for own in lists.values()} == {24}
  for name in expected:
    own = lists[name]
    ranks = ranked[name].ranks("ndcg", 10)
    place = list_metrics.target_ranks(own, targets, groups)
    # A rank counts repeated titles, a list does not.
    assert np.all(place[ranks < 10] <= ranks[ranks < 10]), name
    few = np.bincount(groups).max() - 1
    assert np.all(ranks[place < 10] <= place[place < 10] + 10 * few), name
  written = item_fairness.read(run.paths.item_fairness)
  assert {(row.ranker, row.k) for row in written.rows} == {
    (name, k) for name in lists for k in (5, 10)
  }
  popularity, titles = run.catalogue.popularity, run.catalogue.titles
  for quality in written.quality:
    own = lists[quality.ranker][:, : quality.k]
    assert quality.values == list_quality.measures(own, popularity, titles)
  assert len(written.quality) == 2 * len(lists)
  members = item_groups.by_popularity(run.catalogue.popularity).members
  had = item_fairness.counts(run.examples("test").history, members)
  for row in written.rows:
    again = item_fairness.row(
      row.ranker,
      row.grouping,
      item_groups.FIFTHS,
      lists[row.ranker][:, : row.k],
      had,
      members,
      ground.bootstrap_samples,
      run.config.seed,
    )
    assert again.shares == row.shares
    assert (again.mgu, again.dgu) == (row.mgu, row.dgu)
