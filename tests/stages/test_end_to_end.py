"""Every mode on the tiny demo, on three meshes of 8 devices."""

import json

import numpy as np
import pytest
from safetensors import numpy as safetensors

from tests.stages import command

MESHES = {"data": (8, 1, 1), "mixed": (2, 2, 2), "fsdp": (1, 8, 1)}
DEMO = "--config=configs/demo.py:tiny"


def mesh_flags(shape):
  names = ("data", "fsdp", "tensor")
  return [f"--config.mesh.{n}={s}" for n, s in zip(names, shape, strict=True)]


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
  """A finished workdir a mesh: one mode by one, the others by pipeline."""
  root = tmp_path_factory.mktemp("end_to_end")
  found = {}
  for name, shape in MESHES.items():
    found[name] = root / name
    modes = ["pipeline", "export"]
    if name == "data":
      modes = ["prepare", "pretrain", "train", "train_cf", "embed", "generate"]
      modes += ["ground_eval", "report", "export"]
    for mode in modes:
      flags = mesh_flags(shape)
      # One of them as users run it.
      command.run(
        DEMO,
        f"--mode={mode}",
        f"--workdir={found[name]}",
        *flags,
        optimized=name == "data",
      )
  return found


pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", MESHES)
def test_every_promised_file_is_there(workdirs, name):
  root = workdirs[name]
  promised = [
    "data/catalogue.jsonl",
    "data/manifest.json",
    "data/doctor.json",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "metrics/train.jsonl",
    "cf/sasrec/valid.npy",
    "cf/sasrec/test.npy",
    "metrics/cf.json",
    "predictions/valid.json",
    "predictions/test.json",
    "metrics/ground_eval.json",
    "chosen.json",
    "ranks/test.npz",
    "report/index.html",
    "export/adapter/adapter_model.safetensors",
    "export/merged/model.safetensors",
  ]
  assert [p for p in promised if not (root / p).is_file()] == []
  assert any((root / "embeddings").iterdir())
  assert any((root / "checkpoints").iterdir())
  assert any((root / "tensorboard").rglob("*tfevents*"))


def test_the_training_log_is_as_promised(workdirs):
  lines = (workdirs["data"] / "metrics/train.jsonl").read_text().splitlines()
  lines = [json.loads(line) for line in lines]
  steps = [line for line in lines if "loss" in line]
  evals = [line for line in lines if "eval_loss" in line]
  # 64 examples in batches of 16, for 2 epochs.
  assert [line["step"] for line in steps] == list(range(1, 9))
  assert all(
    set(line) == {"step", "loss", "learning_rate", "grad_norm"}
    for line in steps
  )
  assert [line["step"] for line in evals] == [4, 8]
  assert all(set(line) == {"step", "eval_loss"} for line in evals)


def test_predictions_are_bigrec_rows_best_first(workdirs):
  rows = json.loads((workdirs["data"] / "predictions/test.json").read_text())
  assert len(rows) == 24
  for row in rows:
    assert set(row) == {"instruction", "input", "output", "predict", "scores"}
    assert len(row["predict"]) == len(row["scores"]) == 2
    assert row["scores"] == sorted(row["scores"], reverse=True)


def test_ground_eval_is_as_promised(workdirs):
  result = json.loads(
    (workdirs["data"] / "metrics/ground_eval.json").read_text()
  )
  assert result["num_items"] == 150
  assert result["num_examples"] == {"valid": 24, "test": 24}
  cutoffs = {"1", "3", "5", "10", "20", "50"}
  seen = set()
  for row in result["results"]:
    seen.add((row["split"], row["injection"], row["protocol"]))
    assert set(row["ndcg"]) == set(row["hr"]) == cutoffs
    assert set(row["ci95"]["hr"]) == cutoffs
    if row["injection"] == "none":
      assert row["gamma"] is None
    elif row["protocol"] == "single_gamma":
      assert isinstance(row["gamma"], float)
    elif row["protocol"] == "two_gammas":
      assert set(row["gamma"]) == {"popularity", "cf"}
    else:
      assert set(row["gamma"]["ndcg"]) == set(row["gamma"]["hr"]) == cutoffs
  for injection in ("none", "popularity", "cf", "popularity+cf"):
    for protocol in ("bigrec", "single_gamma"):
      assert ("test", injection, protocol) in seen
  assert ("test", "popularity+cf", "two_gammas") in seen


@pytest.mark.parametrize("name", ["mixed", "fsdp"])
def test_meshes_agree(workdirs, name):
  one, other = workdirs["data"], workdirs[name]

  def losses(root):
    lines = (root / "metrics/train.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in lines]
    return np.array([x.get("loss", x.get("eval_loss")) for x in lines])

  np.testing.assert_allclose(losses(one), losses(other), rtol=1e-4, atol=1e-4)
  first = safetensors.load_file(one / "adapter/adapter_model.safetensors")
  second = safetensors.load_file(other / "adapter/adapter_model.safetensors")
  assert first.keys() == second.keys()
  for key in first:
    np.testing.assert_allclose(first[key], second[key], rtol=0, atol=1e-4)
  a = json.loads((one / "metrics/ground_eval.json").read_text())
  b = json.loads((other / "metrics/ground_eval.json").read_text())
  for x, y in zip(a["results"], b["results"], strict=True):
    assert x["hr"] == y["hr"], (x["split"], x["injection"])
    for k, value in x["ndcg"].items():
      assert value == pytest.approx(y["ndcg"][k], abs=1e-4)


def test_a_finished_workdir_is_left_as_it_is(workdirs):
  root = workdirs["data"]
  before = (root / "metrics/ground_eval.json").stat().st_mtime_ns
  adapter = (root / "adapter/adapter_model.safetensors").stat().st_mtime_ns
  result = command.run(
    DEMO, "--mode=pipeline", f"--workdir={root}", *mesh_flags((8, 1, 1))
  )
  for stage in ("prepare", "pretrain", "train", "embed", "ground_eval"):
    assert f"{stage}: " in result.stdout
  assert result.stdout.count("is current") >= 6
  assert (root / "metrics/ground_eval.json").stat().st_mtime_ns == before
  assert (
    root / "adapter/adapter_model.safetensors"
  ).stat().st_mtime_ns == adapter


def test_processes_do_what_one_does(workdirs, tmp_path):
  """The pipeline by two processes of four devices, export by four of two."""
  if reason := command.why_not_together():
    pytest.skip(reason)
  one, two = workdirs["fsdp"], tmp_path / "two"
  flags = [DEMO, f"--workdir={two}", *mesh_flags((1, 8, 1))]
  for mode, count in (("pipeline", 2), ("export", 4)):
    _, *others = together = command.run_together(
      count, f"--mode={mode}", *flags
    )
    for result in together:
      assert result.returncode == 0, result.stderr[-3000:]
    for result in others:
      shown = [x for x in result.stdout.splitlines() if "Gloo" not in x]
      assert not any("current" in x or "NDCG" in x for x in shown)
  for folder in ("adapter", "export/merged"):
    name = "adapter_model" if folder == "adapter" else "model"
    ours = safetensors.load_file(one / folder / f"{name}.safetensors")
    theirs = safetensors.load_file(two / folder / f"{name}.safetensors")
    assert ours.keys() == theirs.keys()
    for key in ours:
      np.testing.assert_allclose(ours[key], theirs[key], rtol=0, atol=1e-4)
  scores = [np.load(root / "cf/sasrec/test.npy") for root in (one, two)]
  np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-4)
  found = [
    json.loads((root / "metrics/ground_eval.json").read_text())["results"]
    for root in (one, two)
  ]
  for x, y in zip(*found, strict=True):
    assert x["hr"] == y["hr"] and x["ndcg"] == pytest.approx(y["ndcg"])
  lines = (two / "metrics/train.jsonl").read_text().splitlines()
  assert len(lines) == 10  # Of one process: 8 steps, 2 evaluations.
  # All is current now, in both; and a mistake stops both.
  item = json.loads((two / "data/catalogue.jsonl").open().readline())
  listed = ["--mode=recommend", f"--history={item['external_id']}"]
  for result in command.run_together(2, *flags, *listed):
    assert result.returncode == 0, result.stderr[-3000:]
  (line,) = (two / "recommendations.jsonl").read_text().splitlines()
  assert len(json.loads(line)["recommendations"]) == 10
  wrong = ["--mode=prepare", "--config.data.format=movielens"]
  for result in command.run_together(2, *flags, *wrong):
    assert result.returncode == 2
    assert sum(x.startswith("error: ") for x in result.stderr.splitlines()) == 1
