"""M6-Rec's heads from made-up purchases to their rows."""

import json

import numpy as np
import pytest
from safetensors import numpy

from bigrec_jax import config as config_lib, models
from bigrec_jax.devices import sharding
from bigrec_jax.models import own_weights
from bigrec_jax.results import rows
from bigrec_jax.tasks.heads import heads
from configs import m6rec
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
  command.run(*flags, "--mode=pipeline", devices=1)
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
  trained = numpy.load_file(tmp_path / "adapter" / "adapter_own.safetensors")
  own = config_lib.from_config_dict(m6rec.get_config("tiny"))
  arch = models.from_arch(own.model.arch, own.pretrain.vocab_size)
  fresh = own_weights.Spec(heads.weights(own.task.heads, arch), {}).init(
    0, sharding.single_device_mesh()
  )
  assert {name.split(".")[0] for name in trained} == set(HEADS)
  for name, value in trained.items():
    head, weight = name.split(".")
    moved = np.abs(value - np.asarray(fresh[head][weight])).max()
    assert 1e-6 < moved < 0.1, name
  made = (tmp_path / "metrics" / "heads.json").stat().st_mtime_ns
  assert command.here(*flags, "--mode=evaluate")[0] == 0
  assert (tmp_path / "metrics" / "heads.json").stat().st_mtime_ns == made
