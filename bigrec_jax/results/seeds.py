"""Evaluations that differ in their seed alone: mean and standard deviation.

The deviation is the sample's, over seeds (n - 1 in its denominator). It says
how far another seed may be from here; the users are the same in all of them,
so that it is no interval over users.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigrec_jax.results import (
  ground_file,
  main_rows,
  paired_tests,
  rows,
  table,
)
from bigrec_jax.workdir import fields, paths as paths_lib, storage

_SPLITS = ("valid", "test")
# Side by side in a terminal; of more, the file has all.
_SHOWN = tuple(f"{m}@{k}" for m in ("ndcg", "hr") for k in (5, 10, 20))
_FEW = 6

# What one run measured: {(split, system): {metric: value}}.
Measured = Mapping[tuple[str, str], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Row:
  """A system on a split.

  Attributes:
    split: valid or test.
    system: its name in the runs' own files.
    metrics: {name: values, one a seed}, in the order of the seeds.
  """

  split: str
  system: str
  metrics: Mapping[str, Sequence[float]]


def mean_and_spread(values: Sequence[float]) -> str:
  """Returns "mean ± standard deviation" of at least two values."""
  mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
  return f"{mean:.4f} ± {spread:.4f}"


def measured(root: pathlib.Path, task: str, grounds: bool) -> Measured:
  """Returns what an evaluated workdir measured.

  Args:
    root: the workdir.
    task: its name.
    grounds: whether the task's rows are those of metrics/ground_eval.json.

  Raises:
    UserError: its metrics are missing or damaged.
  """
  paths = paths_lib.Paths(root)
  if not grounds:
    found = rows.read_task(paths.task_metrics(task))
    return {(row.split, row.system): row.metrics for row in found}
  ground = ground_file.read(paths.ground_eval)
  return {
    (split, name): {
      f"{metric}@{k}": value
      for metric in ("ndcg", "hr")
      for k, value in getattr(one.row, metric).items()
    }
    for split in _SPLITS
    for name, one in paired_tests.ranked(ground, {}, split).items()
  }


def over(runs: Sequence[Measured]) -> list[Row]:
  """Returns the rows that all runs have, with the metrics that all have."""
  found = []
  for split, system in runs[0]:
    each = [run.get((split, system), {}) for run in runs]
    shared = [name for name in each[0] if all(name in own for own in each)]
    if shared:
      values = {name: tuple(own[name] for own in each) for name in shared}
      found.append(Row(split, system, values))
  return found


def write(path: pathlib.Path, seeds: Sequence[int], found: list[Row]) -> None:
  """Writes metrics/seeds.json atomically."""
  results = [
    {
      "split": row.split,
      "system": row.system,
      "metrics": {
        name: {
          "mean": float(np.mean(values)),
          "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
          "values": list(values),
        }
        for name, values in row.metrics.items()
      },
    }
    for row in found
  ]
  value = {"schema": fields.SCHEMA, "seeds": list(seeds), "results": results}
  storage.write_json(path, value)


def read(path: pathlib.Path) -> tuple[tuple[int, ...], list[Row]]:
  """Returns seeds and rows of metrics/seeds.json.

  Raises:
    UserError: it is missing, damaged or of another version.
  """
  file = fields.Fields(storage.read_json(path), f"{path}:")
  fields.check_schema(file)
  seeds = file.get("seeds", fields.sequence(fields.whole))
  return tuple(seeds), list(file.get("results", fields.sequence(_row)))


def _row(value: Any, where: str) -> Row:
  row = fields.Fields(value, where)
  return Row(
    row.get("split", fields.text),
    row.get("system", fields.text),
    row.get("metrics", fields.mapping(_values)),
  )


def _values(value: Any, where: str) -> Sequence[float]:
  own = fields.Fields(value, where)
  return own.get("values", fields.sequence(fields.number))


def cells(found: Sequence[Row], metrics: Sequence[str]) -> list[list[object]]:
  """Returns a line a system of test: its name, then mean ± deviation."""
  return [
    [main_rows.label(row.system), *(_cell(row, name) for name in metrics)]
    for row in found
    if row.split == "test"
  ]


def _cell(row: Row, metric: str) -> object:
  values = row.metrics.get(metric)
  if not values:
    return None
  return mean_and_spread(values) if len(values) > 1 else float(values[0])


def metrics_of(found: Sequence[Row]) -> list[str]:
  """Returns the metrics that a table shows: all, of many the usual ones."""
  names = dict.fromkeys(
    name for row in found if row.split == "test" for name in row.metrics
  )
  usual = [name for name in _SHOWN if name in names]
  return usual if usual and len(names) > _FEW else list(names)


def of_terminal(seeds: Sequence[int], found: Sequence[Row]) -> str:
  """Returns the table of test that a command ends with."""
  names = metrics_of(found)
  shown = table.format_table(["test", *names], cells(found, names))
  listed = ", ".join(map(str, seeds))
  return f"{shown}\nmean ± standard deviation over seeds {listed}"
