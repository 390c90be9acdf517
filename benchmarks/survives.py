"""What becomes of damage, hostile input, mistakes, kills and two writers.

  python -m benchmarks.survives --json=results.json
  python -m benchmarks.survives --kinds numbers paths --most=50 --seed=3

Prints a table with a line for each kind: how many cases were tried, how many
ended right (as if nothing had been), were healed (made again, the results
equal), were refused (one line, exit status 2), or were lost: results that
differ, a traceback, no line at all, another status, or no end. The lost ones
are named on standard error. All runs are of the tiny demo; the draws follow
from --seed alone.
"""

import argparse
import json
import os
import pathlib
import platform
import signal
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib import metadata

from benchmarks import (
  scratch,
  survive_commands as commands_lib,
  survive_damage,
  survive_inputs,
  survive_kills,
  survive_processes,
)
from bigrec_jax.results import table

_PACKAGES = ("jax", "jaxlib", "flax", "orbax-checkpoint", "numpy")
_DEMO = (
  f"--config={commands_lib.ROOT}/configs/demo.py:tiny",
  "--config.ground.cf_model=sasrec",
)
Tallies = Iterable[commands_lib.Tally]


class Trial:
  """What the kinds share: commands, finished workdirs, how much to try."""

  def __init__(self, arguments: argparse.Namespace, folder: pathlib.Path):
    self.seed, self.most = arguments.seed, arguments.most
    self.rounds, self.folder = arguments.rounds, folder
    self.modes = tuple(arguments.modes)
    self.commands = commands_lib.Commands(folder)
    self.made, self.other = folder / "made", folder / "other"
    for workdir, seed in ((self.made, 0), (self.other, 1)):
      flags = (*_DEMO, f"--workdir={workdir}", f"--config.seed={seed}")
      if seed:
        flags += ("--config.data.synthetic.seed=11",)
      ended = self.commands.run("--mode=pipeline", *flags)
      if ended.status:
        raise RuntimeError(ended.err[-2000:])

  def damage(self) -> Tallies:
    """Damaged and mixed files of a workdir."""
    lines = (self.made / "data" / "catalogue.jsonl").read_text().splitlines()
    item = json.loads(lines[5])["external_id"]
    return survive_damage.run(
      self.commands, self.made, self.other, item, self.seed, self.most
    )

  def raw(self) -> Tallies:
    """Raw files."""
    each = -(-self.most // 3)
    yield survive_inputs.raw_files(self.commands, self.folder, self.seed, each)

  def models(self) -> Tallies:
    """Bases and adapters."""
    yield survive_inputs.model_files(
      self.commands, self.made, self.seed, self.most
    )

  def given(self) -> Tallies:
    """Predictions, CF scores and popularity."""
    yield survive_inputs.given_files(
      self.commands, self.made, self.seed, self.most
    )

  def numbers(self) -> Tallies:
    """Numeric keys."""
    yield survive_inputs.numbers(self.commands, self.made, self.seed, self.most)

  def paths(self) -> Tallies:
    """Keys that name files and folders."""
    yield survive_inputs.paths(self.commands, self.made)

  def configs(self) -> Tallies:
    """Configuration files."""
    yield survive_inputs.config_files(self.commands, self.folder)

  def kills(self) -> Tallies:
    """Signals at random moments."""
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
      yield survive_kills.stops(
        self.commands, self.made, self.seed, self.rounds, number, self.modes
      )

  def writers(self) -> Tallies:
    """Two commands on one workdir."""
    yield survive_kills.writers(
      self.commands, self.made, self.seed, self.rounds, self.modes
    )

  def processes(self) -> Tallies:
    """One of several processes that dies or is told to stop."""
    yield survive_processes.several(
      self.made, self.seed, self.rounds, self.modes
    )


_KINDS: dict[str, Callable[[Trial], Tallies]] = {
  "damage": Trial.damage,
  "raw": Trial.raw,
  "models": Trial.models,
  "given": Trial.given,
  "numbers": Trial.numbers,
  "paths": Trial.paths,
  "configs": Trial.configs,
  "kills": Trial.kills,
  "writers": Trial.writers,
  "processes": Trial.processes,
}


def main() -> int:
  """Tries all kinds, prints the table and writes JSON; 1 if any is lost."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--json", default="")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--most", type=int, default=100, help="of most kinds")
  parser.add_argument("--rounds", type=int, default=2, help="kills a mode")
  parser.add_argument(
    "--kinds", nargs="+", choices=_KINDS, default=list(_KINDS)
  )
  parser.add_argument(
    "--modes",
    nargs="+",
    choices=survive_kills.OWN,
    default=list(survive_kills.OWN),
    help="to be killed",
  )
  arguments = parser.parse_args()
  started, tallies = time.perf_counter(), []
  with tempfile.TemporaryDirectory() as folder:
    trial = Trial(arguments, pathlib.Path(folder))
    for kind in arguments.kinds:
      tallies += _KINDS[kind](trial)
  headers = ["kind", "tried", *commands_lib.OUTCOMES]
  rows = [
    [one.kind, one.tried, *(one.counts[name] for name in commands_lib.OUTCOMES)]
    for one in tallies
  ]
  sums = [sum(column) for column in list(zip(*rows, strict=True))[1:]]
  print(table.format_table(headers, [*rows, ["all", *sums]]))
  if arguments.json:
    result = {
      "what": {k: v for k, v in vars(arguments).items() if k != "json"},
      "seconds": round(time.perf_counter() - started),
      "hardware": {
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
      },
      "versions": {name: metadata.version(name) for name in _PACKAGES}
      | {"python": platform.python_version()},
      "kinds": {one.kind: one.to_json() for one in tallies},
    }
    scratch.write_json(arguments.json, result)
  return 1 if sums[-1] else 0


if __name__ == "__main__":
  raise SystemExit(main())
