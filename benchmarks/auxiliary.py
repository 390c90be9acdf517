"""Does each auxiliary task help? Cao et al.'s mixture without one of them.

  python -m benchmarks.auxiliary --config=configs/cao.py:tiny --seeds=0,1
  python -m benchmarks.auxiliary --config=configs/cao.py --folder=runs/loo \
    --seeds=0,1,2 data.format=bigrec data.train=... model.path=...

Trains and evaluates, for every seed: all kinds as the configuration weighs
them; without MIM, MLM or BPR; without all three. Everything else is equal: the
base, the samples of the other kinds, the questions of test. Words behind the
flags are keys of the configuration. Prints, of test, each metric's mean over
seeds, its standard deviation, and the mean difference to all kinds with how
many seeds have its sign; --json=FILE writes every value. Each run has a workdir
under --folder; started again, the command goes on where it was.
"""

import argparse
import ast
import contextlib
import importlib.metadata
import logging as python_logging
import os
import pathlib
import runpy
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import scratch
from bigrec_jax import config as config_lib, errors
from bigrec_jax.results import rows, table
from bigrec_jax.stages import evaluate, pretrain, session as session_lib
from bigrec_jax.workdir import interrupts, large_pages, locks

AUXILIARY = ("mim", "mlm", "bpr")
ALL = "all"
# Which weights become 0, by the name of what is left.
VARIANTS: dict[str, tuple[str, ...]] = {
  ALL: (),
  **{f"without {kind}": (kind,) for kind in AUXILIARY},
  "none": AUXILIARY,
}
_OWN = "cao"  # Rows of the model itself: others don't depend on the mixture.
_OF_ITS_OWN = (".lock*", "converted_base")  # A copy makes it again.
# (system, metric) -> value of test.
Values = dict[tuple[str, str], float]


def configuration(
  spec: str, changes: Mapping[str, Any], variant: str, seed: int
) -> config_lib.Config:
  """Returns the configuration of one run.

  Args:
    spec: configs/<name>.py, with :tiny or without.
    changes: values by dotted key.
    variant: of VARIANTS.
    seed: of the run.

  Raises:
    UserError: there is no such file, or a key or value is wrong.
  """
  path, _, argument = spec.partition(":")
  if not pathlib.Path(path).is_file():
    raise errors.UserError(f"--config: {path}: no such file")
  values = runpy.run_path(path)["get_config"](argument)
  try:
    values.update_from_flattened_dict(dict(changes))
  except (KeyError, TypeError, ValueError) as error:
    raise errors.UserError(
      f"{error}; keys and values as in configs/common.py expected"
    ) from None
  values.seed = seed
  for kind in VARIANTS[variant]:
    values.task.auxiliary.weights[kind] = 0.0
  return config_lib.from_config_dict(values)


@contextlib.contextmanager
def _session(
  config: config_lib.Config, workdir: pathlib.Path
) -> Iterator[session_lib.Session]:
  """Yields a session that writes to a workdir, alone."""
  workdir.parent.mkdir(parents=True, exist_ok=True)
  asked = session_lib.Asked(flags=(f"--workdir={workdir}",))
  with locks.turn(workdir), locks.writer(workdir, "benchmarks.auxiliary"):
    yield session_lib.Session(config, workdir, asked)


def _base(config: config_lib.Config, folder: pathlib.Path) -> pathlib.Path:
  """Returns a workdir with data and base, which all runs of a seed share."""
  own = folder / f"base-{config.seed}"
  with _session(config, own) as session:
    session.make(*pretrain.needed(session))
  return own


def _run(config: config_lib.Config, workdir: pathlib.Path) -> Values:
  """Trains and evaluates; returns what was measured on test."""
  with _session(config, workdir) as session:
    if session.task.name != "auxiliary":
      raise errors.UserError(
        f"config.task.name: {session.task.name} found, auxiliary expected"
      )
    stage = evaluate.stage(session)
    session.make(stage)
    found: Sequence[rows.TaskRow] = session.load(stage)
  return {
    (row.system, name): value
    for row in found
    if row.split == "test" and _OWN in row.system
    for name, value in row.metrics.items()
    if name in row.ci95
  }


def measure(
  spec: str,
  changes: Mapping[str, Any],
  seeds: Sequence[int],
  folder: pathlib.Path,
) -> dict[str, list[Values]]:
  """Returns what each variant measured, a seed at a time.

  Args:
    spec: of the configuration.
    changes: values by dotted key.
    seeds: of the runs.
    folder: of the workdirs.
  """
  found: dict[str, list[Values]] = {variant: [] for variant in VARIANTS}
  for seed in seeds:
    base = _base(configuration(spec, changes, ALL, seed), folder)
    for variant in VARIANTS:
      workdir = folder / f"{variant.replace(' ', '-')}-{seed}"
      if not workdir.exists():
        half = workdir.with_name(f".{workdir.name}.{os.getpid()}")
        ignored = shutil.ignore_patterns(*_OF_ITS_OWN)
        shutil.copytree(base, half, ignore=ignored)
        half.rename(workdir)
      config = configuration(spec, changes, variant, seed)
      found[variant].append(_run(config, workdir))
      print(f"{variant}, seed {seed}: done", flush=True)
  return found


def summary(found: Mapping[str, Sequence[Values]]) -> str:
  """Returns a table: a line a metric, a column a variant."""
  keys = list(found[ALL][0])
  lines: list[list[object]] = []
  for key in keys:
    line: list[object] = [" ".join(key)]
    every = np.array([own[key] for own in found[ALL]])
    for variant, runs in found.items():
      values = np.array([own[key] for own in runs])
      text = f"{values.mean():.4f}"
      if len(values) > 1:
        text += f" ± {values.std(ddof=1):.4f}"
      if variant != ALL:
        gap = values - every
        same = int((np.sign(gap) == np.sign(gap.mean())).sum())
        text += f" ({gap.mean():+.4f}, {same}/{len(gap)})"
      line.append(text)
    lines.append(line)
  return table.format_table(["test", *found], lines)


def to_json(
  found: Mapping[str, Sequence[Values]],
  spec: str,
  changes: Mapping[str, Any],
  seeds: Sequence[int],
) -> dict[str, Any]:
  """Returns every value: {variant: {"<system> <metric>": [a seed each]}}."""
  config = configuration(spec, changes, ALL, seeds[0])
  return {
    "config": spec,
    "changes": {key: _named(value) for key, value in changes.items()},
    "seeds": list(seeds),
    "weights": config.task.auxiliary.weights.by_kind,
    "versions": {
      name: importlib.metadata.version(name) for name in ("jax", "flax")
    },
    "test": {
      variant: {" ".join(key): [own[key] for own in runs] for key in runs[0]}
      for variant, runs in found.items()
    },
  }


def _named(value: Any) -> Any:
  """Returns a value; of a path only its last part, which is nobody's."""
  is_path = isinstance(value, str) and os.sep in value
  return pathlib.PurePath(value).name if is_path else value


def _changes(words: Sequence[str]) -> dict[str, Any]:
  """Returns {dotted key: value} of words such as data.num_train=1024."""
  found = {}
  for word in words:
    key, equals, text = word.partition("=")
    if not equals:
      raise errors.UserError(f"{word!r} found, key=value expected")
    try:
      found[key] = ast.literal_eval(text)
    except (ValueError, SyntaxError):
      found[key] = text
  return found


def main() -> int:
  """Returns the exit status."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--config", default="configs/cao.py:tiny")
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument(
    "--folder", type=pathlib.Path, default=pathlib.Path(".scratch/auxiliary")
  )
  parser.add_argument("--json", type=pathlib.Path)
  parser.add_argument("changes", nargs="*", help="key=value of the config")
  arguments = parser.parse_args()
  seeds = [int(seed) for seed in arguments.seeds.split(",")]
  large_pages.ask()
  interrupts.install()
  python_logging.getLogger("absl").setLevel(python_logging.WARNING)
  try:
    changes = _changes(arguments.changes)
    found = measure(arguments.config, changes, seeds, arguments.folder)
  except errors.UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return error.status
  print(summary(found))
  if arguments.json:
    result = to_json(found, arguments.config, changes, seeds)
    scratch.write_json(arguments.json, result)
  return 0


if __name__ == "__main__":
  sys.exit(main())
