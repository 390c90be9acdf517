"""The report's section on a task's own rows."""

from bigrec_jax.results import rows, run_data, task_sections
from bigrec_jax.workdir import paths as paths_lib

ROWS = [
  rows.TaskRow("valid", "tallrec", {"auc": 0.75}, {"auc": (0.7, 0.8)}, 9, (0,)),
  rows.TaskRow("test", "tallrec", {"auc": 0.7198}, {}, 8, (0,)),
  rows.TaskRow("test", "<gru4rec>", {"hr@1": 0.5}, {}, 8, (0, 1)),
]


def test_every_row_is_shown_by_split():
  html = str(task_sections.results("yes_no", ROWS))
  assert html.count("<table") == 2
  assert "0.7500 (0.7000 to 0.8000)" in html
  assert "0.7198" in html and "&lt;gru4rec&gt;" in html
  assert html.index("valid") < html.index("0.7198")


def test_what_was_not_evaluated_is_said_to_be_missing(tmp_path):
  assert "--mode=evaluate" in str(task_sections.results("yes_no", []))
  data = run_data.load(tmp_path, "yes_no")
  missing = [file for file, _ in data.missing()]
  assert "metrics/yes_no.json" in missing
  assert not any("ground" in file or "ranks" in file for file in missing)
  assert data.is_empty
  rows.write_task(paths_lib.Paths(tmp_path).task_metrics("yes_no"), ROWS)
  data = run_data.load(tmp_path, "yes_no")
  assert data.task_rows == tuple(ROWS)
  assert not data.is_empty
