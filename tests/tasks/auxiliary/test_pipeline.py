"""Cao et al. from made-up purchases to its rows and the report."""

import json

import pytest

from bigrec_jax.results import rows
from tests.stages import command

pytestmark = pytest.mark.slow
FLAGS = (
  "--config=configs/cao.py:tiny",
  "--config.mesh.data=2",
  "--config.task.auxiliary.item=id",
  "--config.task.auxiliary.candidates=4",
  "--config.task.auxiliary.weights.ranking=0.5",
  "--config.train.num_epochs=1",
  "--config.train.max_length=384",
  "--config.generate.num_beams=3",
  "--config.generate.prompt_buckets=(256,)",
  "--config.cf.model=item_knn",  # Compiles nothing.
  "--config.ground.cf_model=item_knn",
)
OWN = {
  "retrieval": ("cao", "most_pop", "item_knn"),
  "ranking": ("cao", "most_pop", "item_knn"),
  "rating": ("cao", "cao, expected", "train mean"),
}


def test_the_tiny_pipeline_ends_with_rows_and_report(tmp_path):
  flags = [*FLAGS, f"--workdir={tmp_path}"]
  command.run(*flags, "--mode=pipeline", devices=2)
  found = rows.read_task(tmp_path / "metrics" / "auxiliary.json")
  mixed, *measured = found
  assert (mixed.split, mixed.system) == ("train", "mixture")
  # Of ids alone there are no words to hide.
  counts = {k: v for k, v in mixed.metrics.items() if "samples" in k}
  assert list(counts.values()) == [64, 32, 64, 64, 0, 64]
  assert mixed.n == 288
  systems = [f"{task}: {name}" for task, own in OWN.items() for name in own]
  for split in ("valid", "test"):
    own = [row for row in measured if row.split == split]
    assert [row.system for row in own] == systems
    assert all(row.n == 24 for row in own)
    retrieval, rating = own[0].metrics, own[-1].metrics
    assert retrieval["items"] == 1.0  # Every beam is an item.
    assert own[3].metrics["hr@5"] == 1.0  # Four candidates.
    assert 0 < rating["mae"] <= rating["rmse"]
  (first, *_) = json.loads((tmp_path / "predictions/test.json").read_text())
  assert first["instruction"].startswith("Given the items that a user")
  assert len(first["predict"]) == 3
  assert all(text.strip('"').isdecimal() for text in first["predict"])
  html = (tmp_path / "report" / "index.html").read_text()
  assert "ranking: item_knn" in html
  again = command.run(*flags, "--mode=evaluate", devices=2)
  assert "auxiliary.json is current" in again.stdout
