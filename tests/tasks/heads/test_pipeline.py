"""M6-Rec's heads from made-up purchases to their rows."""

import json

import pytest

from bigrec_jax.results import rows
from tests.stages import command

pytestmark = pytest.mark.slow
FLAGS = (
  "--config=configs/m6rec.py:tiny",
  "--config.train.num_epochs=1",
  "--config.pretrain.num_steps=0",
  "--config.data.num_train=32",
)
HEADS = ("score", "late", "towers", "options")


def test_the_tiny_pipeline_ends_with_a_row_for_each_head(tmp_path):
  flags = [*FLAGS, f"--workdir={tmp_path}"]
  command.run(*flags, "--mode=pipeline", devices=1, quick=True)
  found = rows.read_task(tmp_path / "metrics" / "heads.json")
  of_test = {row.system: row for row in found if row.split == "test"}
  assert list(of_test) == [
    "score",
    "late",
    "towers",
    "towers, all items",
    "options",
    "likelihood, untuned",
    "most_pop",
  ]
  for name, row in of_test.items():
    assert row.n == 24
    assert 0 <= row.metrics["recall@10"] <= 1
    if name != "towers, all items":
      low, high = row.ci95["auc"]
      assert low <= row.metrics["auc"] <= high
  costs = {name: row.metrics["gflops"] for name, row in of_test.items()}
  assert costs["towers"] < costs["late"] < costs["score"]
  assert costs["score"] < costs["likelihood, untuned"]  # Which makes logits.
  lines = (tmp_path / "metrics" / "train.jsonl").read_text().splitlines()
  steps = [json.loads(line) for line in lines if "learning_rate" in line]
  for one in steps:
    assert one["loss"] == pytest.approx(sum(one[head] for head in HEADS))
  assert (tmp_path / "adapter" / "adapter_own.safetensors").is_file()
  made = (tmp_path / "metrics" / "heads.json").stat().st_mtime_ns
  assert command.here(*flags, "--mode=evaluate")[0] == 0
  assert (tmp_path / "metrics" / "heads.json").stat().st_mtime_ns == made
