from bigrec_jax.results import rows
from bigrec_jax.stages import evaluate


def _rows(metrics):
  return [
    rows.TaskRow(
      split,
      system,
      {name: 0.25 for name in metrics if (system, name) != ("other", "m0")},
      {name: [0.2, 0.3] for name in metrics[1:]},
      7,
      [0],
    )
    for split in ("valid", "test")
    for system in ("own", "other")
  ]


def test_few_metrics_stand_side_by_side():
  lines = evaluate.table_of(_rows(["m0", "m1"])).splitlines()
  assert lines[0].split() == "split system n m0 95 % m1 95 %".split()
  assert lines[2].split() == "valid own 7 0.2500 0.2500 0.2000-0.3000".split()
  assert lines[5].split() == "test other 7 - 0.2500 0.2000-0.3000".split()


def test_many_metrics_have_a_line_each():
  metrics = [f"m{n}" for n in range(20)]
  first, second = evaluate.table_of(_rows(metrics)).split("\n\n")
  lines = second.splitlines()
  assert lines[0].split() == "test, n = 7 own 95 % other 95 %".split()
  assert lines[2].split() == "m0 0.2500 -".split()
  assert lines[3].split() == "m1 0.2500 0.2000-0.3000".split() + (
    "0.2500 0.2000-0.3000".split()
  )
  assert len(lines) == len(first.splitlines()) == 22


def test_rows_without_a_metric_in_common_are_in_tables_of_their_own():
  lists = {f"hr@{k}": 0.5 for k in range(1, 10)}
  found = [
    rows.TaskRow("test", "list", lists, {}, 7, [0]),
    rows.TaskRow("test", "part", {"hr@1": 0.25}, {}, 5, [0]),
    rows.TaskRow("test", "stars", {"rmse": 1.5}, {}, 6, [0]),
  ]
  first, second = evaluate.table_of(found).split("\n\n")
  head, _, *lines = first.splitlines()
  assert head.split("  ")[0] == "test"  # Not all rows have as many.
  assert "list (n = 7)" in head and "part (n = 5)" in head
  assert lines[0].split() == "hr@1 0.5000 0.2500".split()
  assert lines[1].split() == "hr@2 0.5000 -".split() and len(lines) == 9
  assert second.splitlines()[0].split() == "split system n rmse 95 %".split()
  assert second.splitlines()[2].split() == "test stars 6 1.5000".split()
