"""D3's tiny config from raw data to lists, as users run it."""

import json

import jax
import numpy as np
import pytest

import bigrec_jax
from bigrec_jax import config as config_lib
from bigrec_jax.recommend import decoder
from bigrec_jax.stages import plan, session
from configs import d3
from tests.stages import command

CONFIG = "--config=configs/d3.py:tiny"
# MSL's loss goes the same way, so one run shows both.
TRAIN = ("--config.train.objective=legal_tokens",)
LOSS = (*TRAIN, "--config.train.adaptive_temperature=True")
# A workdir remembers what other commands said.
PRIOR = ("--config.generate.prior=sasrec", "--config.generate.prior_weight=0.5")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  root = tmp_path_factory.mktemp("d3") / "run"
  flags = ["--mode=pipeline", f"--workdir={root}", "--config.mesh.data=2"]
  command.run(CONFIG, *LOSS, *flags, devices=2)
  return root


def _generate(workdir, *flags):
  return command.run(
    CONFIG,
    *LOSS,
    "--mode=generate",
    f"--workdir={workdir}",
    "--config.mesh.data=2",
    *flags,
    devices=2,
  )


def _predictions(workdir):
  return json.loads((workdir / "predictions/test.json").read_text())


def test_metrics_and_report(workdir):
  found = json.loads((workdir / "metrics/exact_title.json").read_text())
  assert set(found) == {"schema", "results"}
  assert [(row["split"], row["system"]) for row in found["results"]] == [
    (split, system)
    for split in ("valid", "test")
    for system in ("beams + sasrec", "most_pop", "sasrec")
  ]
  for row in found["results"]:
    assert row["n"] == 24
    for name, (low, high) in row["ci95"].items():
      assert 0 <= low <= row["metrics"][name] <= high <= 1
  assert found["results"][0]["metrics"]["titles"] == 1.0
  html = (workdir / "report/index.html").read_text()
  assert "Task results" in html and "beams + sasrec" in html


def test_the_loss_was_over_legal_tokens(workdir):
  lines = (workdir / "metrics/train.jsonl").read_text().splitlines()
  steps = [json.loads(line) for line in lines]
  steps = [line for line in steps if "loss" in line]
  assert all(line["unknown"] == 0 for line in steps)
  # Far fewer choices than the vocabulary's 384.
  assert all(line["loss"] / line["temperature"] < 4 for line in steps)
  heat = [line["temperature"] for line in steps]
  assert heat[0] == 1.0 and np.all(np.diff(heat) > 0)


def test_a_plan_counts_tries_and_prior(workdir, capsys):
  tree = d3.get_config("tiny")
  tree.plan.topology, tree.plan.parts = "cpu:2", ("train", "generate")
  tree.plan.search, tree.plan.quick, tree.mesh.data = False, True, 2
  tree.train.objective = "legal_tokens"
  own = config_lib.from_config_dict(tree)
  run = session.Session(own, workdir)
  trie, masses = decoder.legal_titles(run)
  size = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(trie))
  kept = (workdir / "plan.json").exists()
  plan.run(own, workdir)
  found = json.loads((workdir / "plan.json").read_text())
  assert not kept and "tables of titles a device: train" in (
    capsys.readouterr().out
  )
  told = run.task.objective().tables
  assert found["table_bytes"] == {
    "train": sum(np.asarray(x).nbytes for x in jax.tree.leaves(dict(told))),
    "generate": size,
    "prior of a user": 4 * masses.count,
  }
  assert found["uncounted"] == [] and found["train"]["own_step"]
  rows = {row["name"]: row["memory"] for row in found["programs"]}
  assert rows["train: apply"]["elsewhere"] >= found["table_bytes"]["train"] > 0
  tree.generate.prior, tree.generate.constrained = "", False
  tree.generate.max_new_tokens, tree.plan.parts = trie.depth, ("generate",)
  plan.run(config_lib.from_config_dict(tree), workdir)
  plain = json.loads((workdir / "plan.json").read_text())
  assert plain["table_bytes"]["generate"] == 0
  name = "generate: advance"
  (other,) = [r["memory"] for r in plain["programs"] if r["name"] == name]
  # The trie, and of half the slots (two devices) a prior.
  more = size + 4 * masses.count * own.generate.batch_size // 2
  assert rows[name]["arguments"] - other["arguments"] == pytest.approx(
    more, abs=64
  )


def test_a_weight_of_0_is_no_prior_and_another_decoding(workdir):
  mixed = _predictions(workdir)
  _generate(workdir, "--config.generate.prior_weight=0")
  plain = _predictions(workdir)
  assert [row["scores"] for row in plain] != [row["scores"] for row in mixed]
  again = _generate(workdir, "--config.generate.prior=")
  assert "predictions/test.json is current" in again.stdout
  _generate(workdir, *PRIOR)
  assert _predictions(workdir) == mixed


def test_new_histories_get_what_the_split_got(workdir):
  """Priors of a split come from its file, others from the trained model."""
  _generate(workdir, *PRIOR)
  command.run(
    CONFIG,
    *LOSS,
    "--mode=embed",
    f"--workdir={workdir}",
    "--config.task.name=next_title",
    *PRIOR,
    devices=1,
  )
  lines = (workdir / "data/catalogue.jsonl").read_text().splitlines()
  titles = [json.loads(line)["title"] for line in lines]
  rows, asked = [], []
  for row in _predictions(workdir):
    own = row["input"].split("before: ")[1][1:-1].split('", "')
    # A title that two items have names the first of them.
    if all(titles.count(title) == 1 for title in own):
      rows.append(row)
      asked.append(own)
  assert len(rows) > 8
  with pytest.warns(UserWarning, match="ground_eval finds out"):
    recommender = bigrec_jax.Recommender.load(workdir)
  assert recommender._decoder._masses is not None
  for found, row in zip(recommender(asked, k=3), rows, strict=True):
    assert list(found.written) == row["predict"]
    np.testing.assert_allclose(found.written_scores, row["scores"], atol=1e-4)
