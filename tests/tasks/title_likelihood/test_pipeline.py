"""LMRecSys from made-up histories to its rows; trained, and zero-shot."""

import json

import pytest

from bigrec_jax.results import rows
from tests.stages import command

pytestmark = pytest.mark.slow
FLAGS = (
  "--config=configs/lmrecsys.py:tiny",
  "--config.train.num_epochs=1",
  "--config.pretrain.num_steps=0",
  "--config.data.num_train=32",
  "--config.cf.model=item_knn",  # Compiles nothing.
  "--config.ground.cf_model=item_knn",
)


def test_the_tiny_pipeline_and_zero_shot_in_one_workdir(tmp_path):
  flags = [*FLAGS, f"--workdir={tmp_path}"]
  command.run(*flags, "--mode=pipeline", devices=1)
  path = tmp_path / "metrics" / "title_likelihood.json"
  found = rows.read_task(path)
  kinds = ("", ", less bias", ", less bias by valid")
  tuned = [f"lmrecsys{kind}" for kind in kinds]
  untuned = [f"untuned base{kind}" for kind in kinds]
  systems = [row.system for row in found if row.split == "test"]
  assert systems == [*tuned, *untuned, "most_pop", "item_knn"]
  lines = (tmp_path / "metrics" / "train.jsonl").read_text().splitlines()
  steps = [json.loads(line) for line in lines if "learning_rate" in line]
  # Eight titles at scores near each other: a hinge of 7 margins.
  assert steps and all(4 < step["loss"] < 9 for step in steps)
  assert all(0 <= step["first"] <= 1 for step in steps)
  assert (tmp_path / "report" / "index.html").is_file()
  made = path.stat().st_mtime_ns
  assert command.here(*flags, "--mode=evaluate")[0] == 0
  assert path.stat().st_mtime_ns == made
  zero = [*flags, "--config.task.title_likelihood.zero_shot=True"]
  command.run(*zero, "--mode=evaluate", devices=1)
  others = rows.read_task(path)
  kept = [row for row in found if not row.system.startswith("lmrecsys")]
  assert [(r.split, r.system) for r in others] == [
    (r.split, r.system) for r in kept
  ]
  for one, other in zip(others, kept, strict=True):
    assert one.metrics == pytest.approx(other.metrics)
