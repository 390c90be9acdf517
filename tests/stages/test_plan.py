"""`--mode=plan` on this machine's CPU and on TPUs that are not there."""

import importlib.util
import json

import pytest

from tests.stages import command

DEMO = ("--config=configs/demo.py:tiny", "--mode=plan")
LIBTPU = importlib.util.find_spec("libtpu")
LLAMA = {
  "model_type": "llama",
  "hidden_size": 128,
  "intermediate_size": 352,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "num_key_value_heads": 1,
  "vocab_size": 512,
}


def plan(workdir, *flags):
  result = command.run(*DEMO, f"--workdir={workdir}", *flags)
  return json.loads((workdir / "plan.json").read_text()), result.stdout


def test_a_cpu_mesh_end_to_end(tmp_path):
  (tmp_path / "base").mkdir()
  (tmp_path / "base" / "config.json").write_text(json.dumps(LLAMA))
  found, text = plan(
    tmp_path / "run",
    "--config.plan.topology=cpu:8",
    "--config.plan.num_items=999",
    "--config.plan.memory_gib=0.001",
    "--config.plan.search=False",
    f"--config.model.path={tmp_path / 'base'}",
    "--config.mesh.data=2",
    "--config.mesh.fsdp=4",
  )
  assert found["devices"] == 8 and found["chip"] is None
  # 2 layers of q, k, v, o (128, 64, 64 and 128 wide), MLP and two norms.
  layer = 128 * (128 + 64 + 64 + 128) + 3 * 128 * 352 + 2 * 128
  assert found["model"]["parameters"] == 2 * layer + 2 * 512 * 128 + 128
  programs = {row["name"]: row for row in found["programs"]}
  assert list(programs) == [
    "train: open header",
    "train: close header",
    "train: accumulate",
    "train: apply",
    "generate: read",
    "generate: advance",
    "ground: distances",
    "ground: counting",
  ]
  train = programs["train: accumulate"]
  assert train["fits"] is False and train["exceeds_by_bytes"] > 0
  assert found["fits"] is False
  # Weights are gathered from fsdp in each of the layers' turns.
  assert train["collectives"]["all-gather"]["count"] >= 2
  assert train["seconds"] is None and train["bound"] is None
  assert all(row["unknown_loops"] == [] for row in found["programs"])
  assert 1 < found["train"]["xla_check"]["ratio"] < 1.15
  assert 1 < found["train"]["xla_check"]["header_ratio"] < 1.15
  assert "95 tokens that all texts begin with" in text
  assert found["train"]["steps"] == 2 * 64 // 16
  assert "does not fit, by" in text and "n/a" in text


def test_mistakes_are_one_line(tmp_path):
  for flags, words in [
    (["--config.plan.topology=v9:2x2"], "config.plan.topology: 'v9:2x2'"),
    (["--config.plan.topology=v5p:2x2"], "3 sizes after v5p: expected"),
    (["--config.plan.topology=h100:3"], "h100:3 found, 1, 2, 4, 8, 16 GPUs"),
    (
      ["--config.plan.topology=cpu:8", "--config.model.path=/nowhere"],
      "config.model.path: /nowhere: not found",
    ),
  ]:
    line = command.mistake(*DEMO, f"--workdir={tmp_path}", *flags)
    assert words in line
  assert not (tmp_path / "plan.json").exists()


@pytest.mark.skipif(LIBTPU is None, reason="libtpu is not installed")
def test_a_mesh_that_is_no_torus_of_the_slice_is_one_line(tmp_path):
  line = command.mistake(
    *DEMO,
    f"--workdir={tmp_path}",
    "--config.plan.topology=v5p:4x4x4",
    "--config.mesh.data=1",
    "--config.mesh.fsdp=8",
    "--config.mesh.tensor=8",
  )
  assert "config.mesh: data 1, fsdp 8, tensor 8 found" in line
  assert "whole axes of v5p:4x4x4 expected" in line


@pytest.mark.slow
@pytest.mark.skipif(LIBTPU is None, reason="libtpu is not installed")
def test_a_tpu_slice_without_the_hardware(tmp_path):
  (tmp_path / "base").mkdir()
  (tmp_path / "base" / "config.json").write_text(json.dumps(LLAMA))
  found, text = plan(
    tmp_path / "run",
    "--config.plan.topology=v5e:2x2",
    "--config.plan.num_items=999",
    "--config.plan.search=False",
    f"--config.model.path={tmp_path / 'base'}",
    "--config.mesh.fsdp=4",
    "--config.plan.quick",
  )
  assert found["fits"] is True and found["model"]["attention"] == "splash"
  for row in found["programs"]:
    assert row["bound"] in ("compute", "memory", "network")
    assert 0 < row["memory"]["peak"] < found["capacity_bytes"]
  assert found["train"]["chip_hours"] > 0
  assert found["generate"]["users_per_second"] > 0
  assert "micro_batch_size" not in text


@pytest.mark.slow
@pytest.mark.skipif(LIBTPU is None, reason="libtpu is not installed")
def test_gpus_without_the_hardware(tmp_path):
  (tmp_path / "base").mkdir()
  (tmp_path / "base" / "config.json").write_text(json.dumps(LLAMA))
  found, text = plan(
    tmp_path / "run",
    "--config.plan.topology=h100:2",
    "--config.plan.parts=('train','generate')",
    "--config.plan.search=False",
    f"--config.model.path={tmp_path / 'base'}",
    "--config.model.dtype=bfloat16",
    "--config.plan.quick",
    "--config.report.price_per_hour=4",
  )
  assert found["chip"]["name"] == "NVIDIA H100" and found["devices"] == 2
  assert found["compiled_for"] == "v5p:1x1x2"
  assert found["capacity_bytes"] == 80 * 10**9
  chip = found["chip"]
  for row in found["programs"]:
    work, times = row["work"], row["times"]
    executed = work["executed"] * work["passes"]
    assert times["compute"] == pytest.approx(executed / 2 / chip["flops"])
    assert times["memory"] == pytest.approx(
      work["bytes"] / 2 / chip["bandwidth"]
    )
  run = found["run"]
  assert run["cost"] == pytest.approx(
    4 * (run["train_hours"] + run["generate_hours"])
  )
  assert (
    len(found["generate"]["meshes"]) == 3
  )  # All ways to write 2 as product.
  assert "compiled for v5p:1x1x2" in text and " at 4 an hour" in text
