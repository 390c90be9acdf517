"""Runs beside each other: seeds of one setting together, others apart."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigrec_jax import errors
from bigrec_jax.results import (
  ground_file,
  main_rows,
  paired_tests,
  run_inputs,
  seeds,
)
from bigrec_jax.workdir import fingerprints, paths as paths_lib, settings

# Sections and keys by which runs of one setting may differ.
_NO_SETTING = ("seed", "seeds", "mesh", "plan", "recommend", "report")


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """An evaluated workdir.

  Attributes:
    name: of its folder.
    seed: of its configuration.
    setting: names its configuration but for the seed.
    ground: metrics/ground_eval.json.
    ranks: of ranks/test.npz.
  """

  name: str
  seed: int
  setting: str
  ground: ground_file.GroundFile
  ranks: Mapping[str, np.ndarray]

  def value(self, row: str, metric: str, k: int) -> float | None:
    """Returns metric@k on test of a row by its name; None where unknown."""
    listed = paired_tests.ranked(self.ground, {})
    if row not in listed:
      return None
    return getattr(listed[row].row, metric).get(str(k))


def roots(names: Sequence[str]) -> list[str]:
  """Returns workdirs; of one that holds several seeds, those of the seeds.

  Raises:
    UserError: what says which seeds those are is damaged.
  """
  found = []
  for name in names:
    paths = paths_lib.Paths(pathlib.Path(name))
    if paths.seeds.exists() and not paths.ground_eval.exists():
      found += [str(paths.seed(n)) for n in seeds.read(paths.seeds)[0]]
    else:
      found.append(name)
  return found


def check(root: pathlib.Path, key: str) -> None:
  """Raises UserError for a workdir that was not evaluated."""
  paths = paths_lib.Paths(root)
  if not paths.ground_eval.exists():
    raise errors.UserError(
      f"config.{key}: {root} found, which has no"
      f" {paths.ground_eval.relative_to(root)}; an evaluated workdir expected"
    )


def read(root: pathlib.Path, config: Mapping[str, Any] | None = None) -> Run:
  """Reads an evaluated workdir.

  Args:
    root: the workdir.
    config: of a workdir that remembers none, all keys.

  Raises:
    UserError: a file is damaged, or it remembers no configuration.
  """
  paths = paths_lib.Paths(root)
  kept = settings.recall(paths)
  if kept is not None:
    config = kept["config"]
  if config is None:
    raise errors.UserError(f"{paths.config}: not found, a workdir's expected")
  named = {key: own for key, own in config.items() if key not in _NO_SETTING}
  file = paths.ranks / "test.npz"
  return Run(
    paths_lib.real(root).name,
    int(config["seed"]),
    fingerprints.of_value(named),
    ground_file.read(paths.ground_eval),
    run_inputs.ranks(file) if file.exists() else {},
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
  """Runs of one setting, one a seed.

  Attributes:
    runs: at least one.
  """

  runs: Sequence[Run]

  @property
  def label(self) -> str:
    """The folders' names, and how many seeds."""
    names = ", ".join(run.name for run in self.runs)
    return names if len(self.runs) == 1 else f"{names}: {len(self.runs)} seeds"

  @property
  def best(self) -> str | None:
    """The row that valid likes best, by the mean over seeds."""
    each = [main_rows.on_valid(run.ground) for run in self.runs]
    shared = set.intersection(*(set(own) for own in each))
    means = {
      name: float(np.mean([own[name] for own in each]))
      for name in each[0]
      if name in shared
    }
    return max(means, key=means.__getitem__, default=None)

  def values(self, row: str, metric: str, k: int) -> list[float]:
    """Returns metric@k of a row in each run that has it."""
    found = [run.value(row, metric, k) for run in self.runs]
    return [value for value in found if value is not None]

  def ranks(self, row: str, metric: str, k: int) -> np.ndarray | None:
    """Returns the ranks [S, N] of a row; None where one run lacks them."""
    found = []
    for run in self.runs:
      one = paired_tests.ranked(run.ground, run.ranks).get(row)
      own = None if one is None else one.ranks(metric, k)
      if own is None:
        return None
      found.append(own)
    if len({len(own) for own in found}) > 1:
      return None
    return np.stack(found)

  @property
  def users(self) -> Any:
    """What names the test users; runs of others can't be paired."""
    prints = [run.ground.fingerprints.get("examples") for run in self.runs]
    tests = [own.get("test") for own in prints if isinstance(own, Mapping)]
    catalogue = self.runs[0].ground.fingerprints.get("catalogue")
    same = len(tests) == len(self.runs) and len(set(tests)) == 1
    return (tests[0], catalogue) if same else None


def groups(runs: Sequence[Run]) -> list[Group]:
  """Returns runs by their setting, in the order of their first.

  A setting's runs of one seed are not seeds of it, and stand apart.
  """
  found: dict[Any, list[Run]] = {}
  for run in runs:
    again = sum(
      (run.setting, run.seed) == (other.setting, other.seed)
      for other in runs[: runs.index(run)]
    )
    found.setdefault((run.setting, again), []).append(run)
  return [Group(own) for own in found.values()]
