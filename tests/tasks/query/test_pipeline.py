"""GPT4Rec from made-up purchases to its rows and the report."""

import json

import pytest

from bigrec_jax.results import rows
from tests.stages import command

pytestmark = pytest.mark.slow
FLAGS = (
  "--config=configs/gpt4rec.py:tiny",
  "--config.train.num_epochs=1",
  "--config.generate.num_beams=3",
  "--config.cf.model=item_knn",  # Compiles nothing.
  "--config.ground.cf_model=item_knn",
)


def test_the_tiny_pipeline_ends_with_rows_and_report(tmp_path):
  flags = [*FLAGS, f"--workdir={tmp_path}"]
  command.run(*flags, "--mode=pipeline", devices=1)
  found = rows.read_task(tmp_path / "metrics" / "query.json")
  systems = ["gpt4rec", "gpt4rec, one query", "bm25", "most_pop", "item_knn"]
  assert [row.system for row in found if row.split == "test"] == systems
  assert all(row.n == 24 for row in found)
  predicted = json.loads((tmp_path / "predictions" / "test.json").read_text())
  assert len(predicted[0]["predict"]) == 3
  assert predicted[0]["input"].startswith("Previously, the customer has bough")
  assert (tmp_path / "report" / "index.html").is_file()
  status, again, _ = command.here_with_output(*flags, "--mode=evaluate")
  assert status == 0 and "query.json is current" in again
