"""Recommendations on the tiny demo, against the ranks of its evaluation."""

import collections
import dataclasses
import json
import shutil

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.rankers import evaluate
from bigrec_jax.recommend import cf_scorer, decoder
from bigrec_jax.stages import (
  list_files,
  recommend,
  session,
  train_cf,
)
from tests import demo_workdir
from tests.stages import command

pytestmark = pytest.mark.slow


_config = demo_workdir.config


@pytest.fixture(scope="module")
def workdir(evaluated_demo, tmp_path_factory):
  """A workdir that is evaluated."""
  root = tmp_path_factory.mktemp("recommend") / "workdir"
  shutil.copytree(evaluated_demo, root)
  return root


@pytest.fixture(scope="module")
def users(workdir):
  """The test split's histories by external id, as a JSONL file."""
  run = session.Session(_config(), workdir)
  path = workdir / "users.jsonl"
  with open(path, "w") as file:
    for n, history in enumerate(run.examples("test").history):
      ids = [run.catalogue.external_ids[i] for i in history if i >= 0]
      file.write(json.dumps({"user": f"u{n}", "history": ids}) + "\n")
  return path


def _read(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
  "injection", ["none", "popularity", "cf", "popularity+cf"]
)
def test_lists_are_in_the_order_that_ground_eval_ranks_by(
  workdir, users, injection
):
  config = _config(
    histories=str(users),
    injection=injection,
    k=150,
    exclude_history=False,
    fallback=False,
  )
  recommend.run(config, workdir)
  run = session.Session(config, workdir)
  rows = _read(workdir / "recommendations.jsonl")
  gamma = rows[0]["provenance"]["gamma"]
  name = f"{injection}:two_gammas" if isinstance(gamma, dict) else injection
  ranks = np.load(workdir / "ranks" / "test.npz")[name]
  written = json.loads((workdir / "predictions" / "test.json").read_text())
  examples, catalogue = run.examples("test"), run.catalogue
  assert len(rows) == len(ranks) == 24
  rows_of = collections.Counter(catalogue.groups.tolist())
  assert len(rows_of) == len(catalogue) - 4  # Of each title one item is listed.
  for n, row in enumerate(rows):
    assert row["user"] == f"u{n}"
    assert row["predict"] == written[n]["predict"]
    np.testing.assert_allclose(row["scores"], written[n]["scores"], atol=1e-5)
    listed = [
      catalogue.index_of_external_id(entry["external_id"])
      for entry in row["recommendations"]
    ]
    titles = catalogue.groups[listed].tolist()
    assert len(set(titles)) == len(titles) == len(rows_of)
    place = titles.index(catalogue.groups[examples.target[n]])
    # A rank counts all items, those whose title was listed before among them.
    again = sum(rows_of[title] - 1 for title in titles[:place])
    assert place <= ranks[n] <= place + again
    if injection == "none":  # Then items of one title are side by side.
      assert ranks[n] == place + again
    values = [entry["score"] for entry in row["recommendations"]]
    assert values == sorted(values, reverse=True) and values[0] == 1.0
    assert row["provenance"]["injection"] == injection
    assert ("cf_rank" in row["recommendations"][0]) == ("cf" in injection)


def test_new_histories_score_as_those_of_the_split(workdir):
  run = session.Session(_config(), workdir)
  models = ("sasrec", "item_knn", "most_pop")
  with pytest.raises(errors.UserError, match="train_cf.*item_knn trains it"):
    cf_scorer.load(run, "item_knn")
  run.make(*map(train_cf.stage, models))
  for model in models:
    score = cf_scorer.load(run, model)
    stored = np.load(run.paths.cf_scores(model, "test"))
    history = run.examples("test").history
    np.testing.assert_allclose(score(history), stored, rtol=1e-5, atol=1e-5)
    # A longer history counts by its newest items, as everywhere.
    longer = np.concatenate([history + 1, history], axis=1) % 150
    newest = longer[:, -10:]
    np.testing.assert_allclose(score(longer), score(newest), rtol=1e-6)
    if model != "most_pop":
      assert not np.allclose(score(longer), score(longer[:, :10]))


def test_a_model_without_its_checkpoint_says_what_makes_it(workdir, capsys):
  run = session.Session(_config(), workdir)
  history = run.examples("test").history
  before = cf_scorer.load(run, "sasrec")(history)
  (folder,) = (workdir / "cf" / "sasrec" / "checkpoints").iterdir()
  shutil.rmtree(folder)
  asked = _config(history=(run.catalogue.titles[9],), injection="cf", gamma="1")
  with pytest.raises(errors.UserError) as error:
    recommend.run(asked, workdir)
  assert str(folder) in str(error.value) and "train_cf" in str(error.value)
  recommend.run(asked, workdir, session.Asked(make=True))
  assert "because of a missing checkpoint" in capsys.readouterr().out
  np.testing.assert_array_equal(cf_scorer.load(run, "sasrec")(history), before)


def test_what_the_user_has_had_is_left_out(workdir, users):
  config = _config(histories=str(users), injection="none", k=10)
  recommend.run(config, workdir)
  for row in _read(workdir / "recommendations.jsonl"):
    listed = {entry["external_id"] for entry in row["recommendations"]}
    assert len(listed) == 10 and not listed & set(row["history"])


def test_auto_takes_what_valid_likes_best(workdir, users):
  config = _config(histories=str(users))
  recommend.run(config, workdir)
  result = json.loads((workdir / "metrics" / "ground_eval.json").read_text())
  best = {
    row["injection"]: row["ndcg"]["20"]
    for row in result["results"]
    if row["split"] == "valid"
  }
  for name, curve in result["gamma_curves"].items():
    best[name] = max(curve["ndcg"]["20"])
  for name, pairs in result["gamma_pairs"].items():
    # One gamma for both is among the pairs.
    assert max(pairs["ndcg"]["20"]) >= max(best.values())
    best[name] = max(pairs["ndcg"]["20"])
  chosen = _read(workdir / "recommendations.jsonl")[0]["provenance"]
  assert best[chosen["injection"]] == max(best.values())
  kept = json.loads((workdir / "chosen.json").read_text())
  assert kept["injection"] == chosen["injection"]
  assert kept["metric"] == "ndcg@20" and kept["split"] == "valid"
  gamma = chosen["gamma"]
  if not isinstance(gamma, dict):
    gamma = {} if gamma is None else dict.fromkeys(kept["gamma"], gamma)
  assert kept["gamma"] == gamma
  for name in ("base", "adapter", "catalogue"):
    assert kept["fingerprints"][name] == chosen[name]


def test_nothing_is_evaluated_for_a_list(workdir, capsys, monkeypatch):
  """Without chosen.json one line says what is injected, and what to do."""
  run = session.Session(_config(), workdir)
  chosen = workdir / "chosen.json"
  kept = chosen.read_text()
  chosen.unlink()
  monkeypatch.setattr(evaluate, "evaluate", None)
  title = run.catalogue.titles[5]
  recommend.run(_config(history=(title,), k=3), workdir)
  (line,) = [x for x in capsys.readouterr().out.splitlines() if "chosen" in x]
  assert f"{chosen} is not there" in line and "--mode=ground_eval" in line
  (row,) = _read(workdir / "recommendations.jsonl")
  assert row["provenance"]["injection"] == "none"
  with pytest.raises(errors.UserError, match="ground_eval first, or a number"):
    recommend.run(_config(history=(title,), injection="cf"), workdir)
  recommend.run(
    _config(history=(title,), k=3, injection="cf", gamma="2"), workdir
  )
  (row,) = _read(workdir / "recommendations.jsonl")
  assert row["provenance"]["gamma"] == 2.0
  # One of another adapter doesn't count either.
  other = json.loads(kept)
  other["fingerprints"]["adapter"] = "another"
  del other["seal"]  # As in files of before.
  chosen.write_text(json.dumps(other))
  recommend.run(_config(history=(title,), k=4), workdir)
  assert "is of adapter another, not of" in capsys.readouterr().out
  chosen.write_text(kept)


def test_a_kill_costs_a_chunk_and_nothing_else(workdir, users, monkeypatch):
  config = _config(histories=str(users), injection="cf", k=3)
  path = workdir / "recommendations.jsonl"
  recommend.run(config, workdir)
  whole = path.read_text()
  path.unlink()
  monkeypatch.setattr(recommend, "_CHUNK", 8)
  decode, asked = decoder.Decoder.__call__, []

  def killed(self, tokens, *rest, **named):
    asked.append(len(tokens))
    if len(asked) == 3:
      raise KeyboardInterrupt
    return decode(self, tokens, *rest, **named)

  monkeypatch.setattr(decoder.Decoder, "__call__", killed)
  with pytest.raises(KeyboardInterrupt):
    recommend.run(config, workdir)
  assert not path.exists()
  (partial,) = workdir.glob("recommendations.*.parts")
  lists = partial.with_suffix(".jsonl")
  assert list_files.count(list_files.parts_of(lists)) == 16
  with open(partial, "a") as file:  # As a kill may leave it.
    file.write("00000020 0000000000")
  # A question in between costs the batch nothing.
  run = session.Session(config, workdir)
  asked.append(0)
  one = _config(history=(run.catalogue.titles[2],), injection="none")
  recommend.run(one, workdir)
  del asked[3:]
  recommend.run(config, workdir)
  assert asked == [8, 8, 8, 8] and not partial.exists()
  assert len(_read(path)) == 24
  # In other batches float32 sums may differ in the last digit.
  once = [json.loads(line) for line in whole.splitlines()]
  for row, other in zip(_read(path), once, strict=True):
    scores = row.pop("scores"), other.pop("scores")
    np.testing.assert_allclose(*scores, atol=1e-5)
    listed = row.pop("recommendations"), other.pop("recommendations")
    assert row == other
    for ours, theirs in zip(*listed, strict=True):
      assert ours["external_id"] == theirs["external_id"]
      assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)


def test_a_kill_before_the_record_costs_nothing(workdir, users, monkeypatch):
  config = _config(histories=str(users), injection="none", k=6)
  path = workdir / "recommendations.jsonl"

  def killed(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(list_files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
      recommend.run(config, workdir)
  with monkeypatch.context() as patch:
    patch.setattr(list_files, "give_name", killed)
    with pytest.raises(KeyboardInterrupt):
      recommend.run(config, workdir)
  assert not path.exists()
  monkeypatch.setattr(decoder.Decoder, "__call__", None)
  recommend.run(config, workdir)
  assert len(_read(path)) == 24
  recommend.run(config, workdir)


def test_lists_that_somebody_else_wrote_are_kept(workdir, users, tmp_path):
  output = tmp_path / "lists.jsonl"
  run = session.Session(_config(), workdir)
  one = _config(
    history=(run.catalogue.titles[3],), injection="none", output=str(output)
  )
  recommend.run(one, workdir)
  ours = output.read_text()
  output.write_text('{"recommendations": "of another workdir"}\n')
  recommend.run(one, workdir)
  assert output.read_text() == ours
  (kept,) = tmp_path.glob("lists.*.jsonl")
  assert "of another workdir" in kept.read_text()


def test_one_history_prints_a_list_and_keeps_the_batch(
  workdir, users, capsys, monkeypatch
):
  path = workdir / "recommendations.jsonl"
  batch = _config(histories=str(users), injection="none", k=2)
  recommend.run(batch, workdir)
  before = path.read_text()
  run = session.Session(batch, workdir)
  title = run.catalogue.titles[4]
  capsys.readouterr()
  one = _config(history=(title, run.catalogue.external_ids[7]), k=4)
  recommend.run(one, workdir)
  shown = capsys.readouterr().out
  (row,) = _read(path)
  assert row["history"] == [title, run.catalogue.external_ids[7]]
  for entry in row["recommendations"]:
    assert entry["title"] in shown and entry["external_id"] in shown
  kept = list(workdir.glob("recommendations.*.jsonl"))
  assert before in [other.read_text() for other in kept]
  recommend.run(one, workdir)
  assert "is current" in capsys.readouterr().out
  # A single history's list makes room for the next without ado.
  recommend.run(_config(history=(title,), k=4), workdir)
  assert list(workdir.glob("recommendations.*.jsonl")) == kept
  # Nor is the batch decoded again.
  monkeypatch.setattr(decoder.Decoder, "__call__", None)
  recommend.run(batch, workdir)
  assert path.read_text() == before


def test_empty_and_unknown_histories_get_lists_too(workdir, tmp_path):
  path = tmp_path / "users.jsonl"
  path.write_text('{"history": []}\n{"history": ["Nobody Knows IV"]}\n')
  output = tmp_path / "out" / "lists.jsonl"
  config = _config(
    histories=str(path), unknown="text", injection="cf", output=str(output)
  )
  recommend.run(config, workdir)
  rows = _read(output)
  assert [len(row["recommendations"]) for row in rows] == [10, 10]
  assert rows[1]["provenance"]["unknown"] == ["Nobody Knows IV"]
  # Nothing is known of them, so CF favours nothing: the text alone decides.
  config = _config(histories=str(path), unknown="text", injection="none")
  recommend.run(config, workdir)
  plain = _read(workdir / "recommendations.jsonl")
  for row, other in zip(rows, plain, strict=True):
    ids = [
      [e["external_id"] for e in r["recommendations"]] for r in (row, other)
    ]
    assert ids[0] == ids[1]


def test_prompts_that_the_data_do_not_have_are_told(workdir, caplog):
  run = session.Session(_config(), workdir)
  title = run.catalogue.titles[0]
  recommend.run(_config(history=(title,), injection="none", k=3), workdir)
  assert "config.prompt.instruction" not in caplog.text
  examples = run.examples("valid")
  own = dict.fromkeys(range(len(examples)), ("Say a book.", "Read: A, B"))
  run._examples["valid"] = dataclasses.replace(examples, overrides=own)
  recommend._warn_of_other_prompts(run)
  assert "24 of 24" in caplog.text and "Say a book." in caplog.text


@pytest.mark.parametrize(
  ("keys", "words"),
  [
    ({}, ["no histories", "--history"]),
    ({"histories": "x", "history": ("y",)}, ["--history", "one of them"]),
    ({"history": ("x",), "output": "/tmp"}, ["output: /tmp", "folder found"]),
    ({"histories": __file__, "output": __file__}, ["output", "another file"]),
    ({"histories": "/nowhere.jsonl"}, ["/nowhere.jsonl", "no such file"]),
    ({"history": ("x",), "injection": "cf", "cf_model": ""}, ["cf_model"]),
    ({"history": ("Nobody Knows",)}, ["'Nobody Knows'", "unknown=text"]),
  ],
)
def test_a_mistake_is_one_line(workdir, keys, words):
  with pytest.raises(errors.UserError) as error:
    recommend.run(_config(**keys), workdir)
  for word in words:
    assert word in str(error.value)


def test_the_command_line(workdir):
  flags = ["--config=configs/demo.py:tiny", f"--workdir={workdir}"]
  flags += ["--config.mesh.data=4", "--config.mesh.fsdp=2"]
  run = session.Session(_config(), workdir)
  ids = [f"--history={i}" for i in run.catalogue.external_ids[:2]]
  result = command.run(*flags, "--mode=recommend", *ids)
  (row,) = _read(workdir / "recommendations.jsonl")
  assert row["history"] == list(run.catalogue.external_ids[:2])
  assert row["recommendations"][0]["title"] in result.stdout
  line = command.mistake(*flags, "--mode=train", *ids)
  assert "--history" in line and "recommend expected" in line
