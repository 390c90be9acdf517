import io
import json

from bigrec_jax import progress
from bigrec_jax.results import table, writer


def test_progress_prints_plain_lines_off_a_terminal():
  stream = io.StringIO()
  with progress.Progress(10, "users", "generate", stream) as bar:
    bar.update(4, loss=0.5)
    bar.update(6)
  lines = stream.getvalue().splitlines()
  assert len(lines) == 2  # The first update and the end; nothing between.
  assert lines[0].startswith("generate: 4/10 users, ")
  assert "ETA" in lines[0] and lines[0].endswith("loss 0.5")
  assert lines[1].startswith("generate: 10/10 users, ")
  assert bar.done == 10 and bar.rate > 0


def test_progress_says_nothing_final_after_an_error():
  stream = io.StringIO()
  try:
    with progress.Progress(10, "users", "generate", stream):
      raise KeyError
  except KeyError:
    pass
  assert stream.getvalue() == ""


def test_writer_resumes_without_repeating_a_step(tmp_path):
  path = tmp_path / "train.jsonl"
  with writer.MetricsWriter(path, None, None) as metrics:
    for step in (1, 2, 3):
      metrics.write(step, {"loss": step / 2})
  with path.open("a") as file:
    file.write('{"step": 4, "lo')  # A kill in the middle of a line.
  with writer.MetricsWriter(path, None, 2) as metrics:
    metrics.write(3, {"loss": 9.0})
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert lines == [
    {"step": 1, "loss": 0.5},
    {"step": 2, "loss": 1.0},
    {"step": 3, "loss": 9.0},
  ]


def test_writer_starts_over_without_a_resume_step(tmp_path):
  path = tmp_path / "train.jsonl"
  path.write_text('{"step": 7}\n')
  writer.MetricsWriter(path, tmp_path / "events", None).close()
  assert path.read_text() == ""
  assert list((tmp_path / "events").iterdir())


def test_table_aligns_and_rounds():
  text = table.format_table(["model", "HR@1"], [["a", 0.5], ["longer", None]])
  assert text.splitlines() == [
    "model     HR@1",
    "------  ------",
    "a       0.5000",
    "longer       -",
  ]
