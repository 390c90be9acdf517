"""LLaRA from a made-up store to its rows, and what becomes of its adapter."""

import json

import numpy as np
import pytest
from safetensors import numpy as safetensors

from bigrec_jax.results import rows
from tests.stages import command

pytestmark = pytest.mark.slow
FLAGS = (
  "--config=configs/llara.py:tiny",
  "--config.cf.num_epochs=1",
  "--config.data.num_train=32",
  "--config.pretrain.num_steps=1",
  "--config.generate.max_new_tokens=4",
)


def test_the_tiny_pipeline_ends_with_rows_report_and_export(tmp_path):
  flags = [*FLAGS, f"--workdir={tmp_path}"]
  command.run(*flags, "--mode=pipeline", devices=1)
  found = rows.read_task(tmp_path / "metrics" / "choose.json")
  systems = ["llara", "most_pop", "sasrec"]
  for split in ("valid", "test"):
    assert [row.system for row in found if row.split == split] == systems
  own = next(row for row in found if row.split == "test")
  predicted = json.loads((tmp_path / "predictions" / "test.json").read_text())
  assert own.n == len(predicted) > 10
  assert all(row["output"] in row["candidates"] for row in predicted)
  assert all(len(row["candidates"]) == 6 for row in predicted)
  assert (tmp_path / "report" / "index.html").is_file()
  curve = (tmp_path / "metrics" / "train.jsonl").read_text().splitlines()
  assert "eval_hit_ratio@1" in json.loads(curve[-1])

  weights = safetensors.load_file(tmp_path / "adapter/adapter_own.safetensors")
  assert weights["projector.in.kernel"].shape == (16, 32)
  assert np.abs(weights["projector.out.kernel"]).max() > 0

  status, again, _ = command.here_with_output(*flags, "--mode=evaluate")
  assert status == 0 and "choose.json is current" in again
  other = "--config.task.choose.schedule=direct"
  dry = (*flags, other, "--mode=train", "--dry_run")
  status, planned, _ = command.here_with_output(*dry)
  assert status == 0 and "schedule" in planned
  command.run(*flags, "--mode=export", devices=1)
  exported = tmp_path / "export/adapter/adapter_own.safetensors"
  assert (
    exported.read_bytes()
    == (tmp_path / "adapter/adapter_own.safetensors").read_bytes()
  )
  # The projector of another CF model is refused where it is used.
  cf = "--config.cf.learning_rate=0.01"
  line = command.mistake(
    *flags,
    cf,
    f"--config.model.adapter={tmp_path}/export/adapter",
    "--mode=generate",
    devices=1,
  )
  assert "trained against sasrec" in line
