"""A system without each of its parts: runs them all and prints one table.

  python -m benchmarks.ablations --config=configs/rsllm.py:tiny \
    --work=runs/rsllm-parts --also=runs/other-domain
  python -m benchmarks.ablations --config=configs/rsllm.py --seeds=0,1,2 \
    --work=runs/rsllm-parts --set=data.raw_dir=ml-100k --set=model.path=llama-7b

The configuration file says which parts there are: `ABLATIONS`, {row of the
table: {key: value}}. Each is `--mode=pipeline` on a workdir of its own below
--work; prepared data, base and CF models are those of the whole system, made
once a seed. Started again, the command goes on where it was. The table is also
<work>/metrics/ablations.json, rows as in any metrics/<task>.json: means over
seeds, the intervals those of the first seed.
"""

import argparse
import ast
import dataclasses
import importlib
import logging as python_logging
import os
import pathlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigrec_jax import config as config_lib, errors
from bigrec_jax.results import rows
from bigrec_jax.stages import evaluate, pipeline, session as session_lib
from bigrec_jax.workdir import interrupts, locks, paths as paths_lib, settings

# Of the whole system's workdir: what is not a part of it, and is made once.
_SHARED = ("base", "cf", "data", "embeddings", "first", "records")


def run(
  module: Any,
  variant: str,
  work: pathlib.Path,
  changes: Mapping[str, Any],
  seeds: Sequence[int],
) -> list[rows.TaskRow]:
  """Makes all workdirs; returns the rows of the table, which it writes.

  Args:
    module: of the configuration file: `get_config` and `ABLATIONS`.
    variant: its argument, "" or "tiny".
    work: of the workdirs, and the table.
    changes: keys of all of them.
    seeds: one run of each.
  """
  found: dict[str, list[Sequence[rows.TaskRow]]] = {}
  for seed in seeds:
    whole = None
    for name, own in module.ABLATIONS.items():
      values = module.get_config(variant)
      with values.unlocked():
        values.update_from_flattened_dict({**changes, **own, "seed": seed})
      config = config_lib.from_config_dict(values)
      workdir = work / f"{_slug(name)}-{seed}"
      if whole is not None:
        _begin_as(whole, workdir)
      whole = whole or workdir
      made = _made(config, workdir, module.__name__.rpartition(".")[2])
      found.setdefault(name, []).append(made)
  table_rows = [
    row for name, runs in found.items() for row in _means(name, runs, seeds)
  ]
  path = paths_lib.Paths(work).task_metrics("ablations")
  rows.write_task(path, table_rows)
  return table_rows


def _made(
  config: config_lib.Config, workdir: pathlib.Path, name: str
) -> Sequence[rows.TaskRow]:
  """Runs the pipeline on a workdir; returns what its task measured."""
  paths = paths_lib.Paths(workdir)
  asked = session_lib.Asked(
    flags=(f"--workdir={workdir}",),
    remember=lambda: settings.remember(paths, config, name, {}),
  )
  with locks.writer(workdir, "benchmarks.ablations"):
    pipeline.run(config, workdir, asked)
  return rows.read_task(paths.task_metrics(config.task.name))


def _begin_as(source: pathlib.Path, target: pathlib.Path) -> None:
  """Begins a workdir with what the whole system's has; whole or not at all."""
  if target.exists():
    return
  half = target.with_name(f".{target.name}.half")
  shutil.rmtree(half, ignore_errors=True)
  half.mkdir(parents=True)
  for name in _SHARED:
    if (source / name).exists():
      shutil.copytree(source / name, half / name)
  half.rename(target)


def _means(
  name: str, runs: Sequence[Sequence[rows.TaskRow]], seeds: Sequence[int]
) -> list[rows.TaskRow]:
  """Returns a variant's own rows, means over seeds; others' rows are equal.

  Args:
    name: of the variant.
    runs: rows of each seed, the system's own first in each split.
    seeds: of the runs.
  """
  found = []
  for split in dict.fromkeys(row.split for row in runs[0]):
    own = [next(r for r in run if r.split == split) for run in runs]
    metrics = {
      metric: float(np.mean([row.metrics[metric] for row in own]))
      for metric in own[0].metrics
      if all(metric in row.metrics for row in own)
    }
    found.append(
      dataclasses.replace(
        own[0], system=name, metrics=metrics, seeds=tuple(seeds)
      )
    )
  return found


def _slug(name: str) -> str:
  return "".join(c if c.isalnum() else "_" for c in name).strip("_")


def _value(text: str) -> Any:
  try:
    return ast.literal_eval(text)
  except (SyntaxError, ValueError):
    return text


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--config", required=True)
  parser.add_argument("--work", type=pathlib.Path, required=True)
  parser.add_argument("--seeds", default="0")
  parser.add_argument(
    "--also", default="", help="prepared workdirs of other domains, commas"
  )
  parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
  return parser.parse_args()


def main() -> None:
  """Runs what the command line asks for."""
  arguments = _arguments()
  file, _, variant = arguments.config.partition(":")
  module = importlib.import_module(f"configs.{pathlib.Path(file).stem}")
  if not hasattr(module, "ABLATIONS"):
    raise errors.UserError(
      f"--config: {file} found, one with ABLATIONS expected"
    )
  changes = dict(item.split("=", 1) for item in arguments.set)
  changes = {key: _value(text) for key, text in changes.items()}
  if arguments.also:
    changes["train.also"] = tuple(arguments.also.split(","))
  cache = os.fspath(arguments.work / ".compilation_cache")
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
  seeds = [int(seed) for seed in arguments.seeds.split(",")]
  found = run(module, variant, arguments.work, changes, seeds)
  print(evaluate.table_of(found))


if __name__ == "__main__":
  interrupts.install()
  python_logging.getLogger().setLevel(python_logging.WARNING)
  try:
    main()
  except errors.UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.status)
