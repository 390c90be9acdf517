"""FaiRLLM's tiny config from raw data to rows, as users run it."""

import json

import pytest

from bigrec_jax.tasks.fairness import prompts, similarity
from tests.stages import command

pytestmark = pytest.mark.slow


def test_pipeline_of_the_base_alone(tmp_path):
  root = tmp_path / "run"
  flags = ["--config=configs/fairllm.py:tiny", f"--workdir={root}"]
  flags += ["--config.task.fairness.models=base"]
  flags += ["--config.task.fairness.attributes=gender"]
  command.run(*flags, "--mode=pipeline", devices=2)
  assert not (root / "adapter").exists()  # Nothing is trained for nobody.
  found = json.loads((root / "metrics/fairness.json").read_text())
  systems = [row["system"] for row in found["results"]]
  values = prompts.VALUES["gender"]
  assert systems == [
    "untuned base: neutral",
    *(f"untuned base: gender, {value}" for value in values),
    "untuned base: gender",
  ]
  spread = found["results"][-1]["metrics"]
  assert set(spread) == {
    f"{name} {part}"
    for name in similarity.MEASURES
    for part in ("min", "max", "snsr", "snsv")
  }
  html = (root / "report/index.html").read_text()
  assert "serp_ms snsv" in html and "untuned base: neutral" in html
