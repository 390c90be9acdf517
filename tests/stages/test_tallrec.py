"""TALLRec's tiny config from raw data to the report, as users run it."""

import json

import pytest

from tests.stages import command

CONFIG = "--config=configs/tallrec.py:tiny"
SYSTEMS = {"tallrec", "untuned base", "gru4rec", "caser", "sasrec", "dros"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  root = tmp_path_factory.mktemp("tallrec") / "run"
  flags = ["--mode=pipeline", f"--workdir={root}", "--config.mesh.data=2"]
  command.run(CONFIG, *flags, devices=2)
  return root


def test_metrics_are_as_promised(workdir):
  found = json.loads((workdir / "metrics/yes_no.json").read_text())
  assert set(found) == {"schema", "results"}
  for split in ("valid", "test"):
    rows = [row for row in found["results"] if row["split"] == split]
    assert {row["system"] for row in rows} == SYSTEMS
    for row in rows:
      low, high = row["ci95"]["auc"]
      assert 0 <= low <= row["metrics"]["auc"] <= high <= 1
      assert row["n"] == 64
      assert row["seeds"] == [0]


def test_epochs_are_chosen_by_auc(workdir):
  lines = (workdir / "metrics/train.jsonl").read_text().splitlines()
  lines = [json.loads(line) for line in lines]
  aucs = [line["eval_auc"] for line in lines if "eval_auc" in line]
  # Every 2 of the 8 steps.
  assert len(aucs) == 4
  found = json.loads((workdir / "metrics/yes_no.json").read_text())
  own = next(r for r in found["results"] if r["system"] == "tallrec")
  assert own["split"] == "valid"
  assert own["metrics"]["auc"] == pytest.approx(max(aucs), abs=2e-3)


def test_the_report_shows_the_rows_and_nothing_that_is_not_there(workdir):
  html = (workdir / "report/index.html").read_text()
  assert "Task results" in html
  assert "untuned base" in html and "dros" in html
  assert "ground_eval" not in html.split("Configuration, fingerprints")[0]


def test_all_is_current_and_ratings_are_asked_for(workdir):
  again = command.run(
    CONFIG, "--mode=evaluate", f"--workdir={workdir}", devices=2
  )
  assert "yes_no.json is current" in again.stdout
  # As data were prepared before ratings were kept.
  manifest = workdir / "data/manifest.json"
  content = json.loads(manifest.read_text())
  del content["ratings"]
  manifest.write_text(json.dumps(content))
  made = (workdir / "metrics/yes_no.json").stat().st_mtime_ns
  again = command.run(
    CONFIG, "--mode=evaluate", f"--workdir={workdir}", devices=2
  )
  assert "because of ratings, which task yes_no needs" in again.stdout
  assert again.stdout.count(": again") == 1  # Nothing else.
  assert (workdir / "metrics/yes_no.json").stat().st_mtime_ns == made
  line = command.mistake(
    CONFIG, "--mode=generate", f"--workdir={workdir}", devices=2
  )
  assert "yes_no found, whose answers are not decoded" in line
