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
  lines = evaluate._table(_rows(["m0", "m1"])).splitlines()
  assert lines[0].split() == "split system n m0 95 % m1 95 %".split()
  assert lines[2].split() == "valid own 7 0.2500 0.2500 0.2000-0.3000".split()
  assert lines[5].split() == "test other 7 - 0.2500 0.2000-0.3000".split()


def test_many_metrics_have_a_line_each():
  metrics = [f"m{n}" for n in range(20)]
  first, second = evaluate._table(_rows(metrics)).split("\n\n")
  lines = second.splitlines()
  assert lines[0].split() == "test, n = 7 own 95 % other 95 %".split()
  assert lines[2].split() == "m0 0.2500 -".split()
  assert lines[3].split() == "m1 0.2500 0.2000-0.3000".split() + (
    "0.2500 0.2000-0.3000".split()
  )
  assert len(lines) == len(first.splitlines()) == 22
