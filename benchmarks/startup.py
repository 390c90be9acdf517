"""Seconds from the command to the result, for every mode of the demo.

  python -m benchmarks.startup --peer --json=results.json

Every start is a whole process, `python main.py --config=configs/demo.py:tiny
--mode=X`, timed from outside (wall, and CPU seconds, which neighbours on the
machine disturb less) and split from inside by startup_probe.py. Of each mode:

  first    nothing is there: no artefact of the mode, no compiled program
  current  a second start: everything is there and is found to be current
  again    the mode's own artefacts are deleted, its programs are cached: all
           its work is done once more, without compiling

`--made=DIR` takes a finished workdir (and the compilation cache beside it)
for the second starts in place of a fresh one. `--variant=` is the demo itself;
`--config.` flags go to main.py, so that its work can be made short at its own
shapes: import, programs and base are what starting costs. The peer imports
torch, transformers and peft and loads the same base, tokenizer and adapter; it
trains and decodes nothing.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from typing import Any

from benchmarks import scratch
from bigrec_jax.results import table
from bigrec_jax.workdir import storage

_ROOT = pathlib.Path(__file__).resolve().parents[1]
# What a mode writes, as patterns under the workdir.
_OWN = {
  "prepare": ("data",),
  "pretrain": ("base", "records/base.json"),
  "train": ("adapter", "checkpoints", "records/adapter.json"),
  "train_cf": ("cf", "records/cf_*"),
  "generate": ("predictions", "records/predictions_*"),
  "embed": ("embeddings", "records/embeddings.json"),
  "ground_eval": ("ranks", "records/ground_eval.json"),
  "recommend": ("recommendations*", "records/recommend*"),
  "export": ("export",),
  "report": ("report",),
  "pipeline": ("report",),
}
_PARTS = ("import", "programs", "base", "work")
_PACKAGES = ("jax", "jaxlib", "flax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class Start:
  """One process.

  Attributes:
    wall: seconds from its start to its end.
    cpu: its user and system seconds.
    inside: what it wrote or printed about itself.
  """

  wall: float
  cpu: float
  inside: dict[str, Any]


def _timed(command: list[str]) -> tuple[float, float, str]:
  """Returns wall seconds, CPU seconds and stdout of a process."""
  environment = dict(os.environ, HF_HUB_OFFLINE="1")
  environment.pop("JAX_COMPILATION_CACHE_DIR", None)
  with (
    tempfile.TemporaryFile("w+") as output,
    tempfile.TemporaryFile("w+") as log,
  ):
    start = time.perf_counter()
    process = subprocess.Popen(
      command, cwd=_ROOT, env=environment, stdout=output, stderr=log
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    output.seek(0)
    log.seek(0)
    if process.returncode:
      raise RuntimeError(f"{' '.join(command)}:\n{log.read()[-3000:]}")
    return wall, usage.ru_utime + usage.ru_stime, output.read()


def start_mode(
  mode: str, arguments: argparse.Namespace, workdir: pathlib.Path
) -> Start:
  """Runs main.py once."""
  config = "configs/demo.py" + (
    f":{arguments.variant}" if arguments.variant else ""
  )
  with tempfile.TemporaryDirectory() as folder:
    probe = pathlib.Path(folder) / "probe.json"
    command = [sys.executable, "-m", "benchmarks.startup_probe", str(probe)]
    command += [f"--config={config}", f"--mode={mode}", f"--workdir={workdir}"]
    command += arguments.flags
    if mode == "recommend":
      with open(workdir / "data" / "catalogue.jsonl", encoding="utf-8") as file:
        item = json.loads(file.readline())["external_id"]
      command.append(f"--history={item}")
    wall, cpu, _ = _timed(command)
    inside = storage.read_json(probe)
  # Before its first line runs the interpreter starts; after its last it ends.
  inside["seconds"]["python"] = wall - sum(inside["seconds"].values())
  return Start(wall, cpu, inside)


def start_peer(workdir: pathlib.Path) -> Start:
  """Imports torch, transformers and peft and loads the demo's weights."""
  script = pathlib.Path(__file__).with_name("peer_startup.py")
  folders = [str(workdir / "base"), str(workdir / "adapter")]
  command = [scratch.interpreter(), str(script), *folders]
  wall, cpu, output = _timed(command)
  return Start(wall, cpu, json.loads(output))


def _without_own(
  mode: str, made: pathlib.Path, target: pathlib.Path
) -> pathlib.Path:
  """Copies a finished workdir, without what the mode writes."""
  shutil.rmtree(target, ignore_errors=True)
  shutil.copytree(made, target)
  for pattern in _OWN[mode]:
    for path in target.glob(pattern):
      shutil.rmtree(path) if path.is_dir() else path.unlink()
  return target


def _summary(starts: list[Start]) -> dict[str, Any]:
  """Returns medians, and all that was measured."""
  inside = [start.inside for start in starts]
  seconds = {
    name: statistics.median(one["seconds"][name] for one in inside)
    for name in (*_PARTS, "python")
  }
  return {
    "wall": statistics.median(start.wall for start in starts),
    "cpu": statistics.median(start.cpu for start in starts),
    "seconds": seconds,
    "programs": inside[-1]["programs"],
    "programs_from_cache": inside[-1]["programs_from_cache"],
    "imported": inside[-1]["imported"],
    "starts": [dataclasses.asdict(start) for start in starts],
  }


def measure(
  arguments: argparse.Namespace, folder: pathlib.Path
) -> dict[str, Any]:
  """Starts every mode; returns what was measured, by mode and kind."""
  made = arguments.made or folder / "made"
  target = made.parent / "startup_again"
  found: dict[str, Any] = {mode: {} for mode in arguments.modes}
  if arguments.made is None:
    for mode in _OWN:
      first = start_mode(mode, arguments, made)
      found.setdefault(mode, {})["first"] = _summary([first])
  starts: dict[tuple[str, str], list[Start]] = {}
  peers = []
  for _ in range(arguments.rounds):
    for mode in arguments.modes:
      current = start_mode(mode, arguments, made)
      starts.setdefault((mode, "current"), []).append(current)
      workdir = _without_own(mode, made, target)
      again = start_mode(mode, arguments, workdir)
      starts.setdefault((mode, "again"), []).append(again)
    if arguments.peer:
      peers.append(start_peer(made))
  shutil.rmtree(target, ignore_errors=True)
  for (mode, kind), each in starts.items():
    found[mode][kind] = _summary(each)
  result: dict[str, Any] = {"modes": found}
  if peers:
    result["peer"] = {
      "wall": statistics.median(start.wall for start in peers),
      "cpu": statistics.median(start.cpu for start in peers),
      "starts": [dataclasses.asdict(start) for start in peers],
    }
  return result


def _show(measured: dict[str, Any]) -> None:
  headers = ["mode", "start", "wall s", "CPU s", *_PARTS, "programs", "cached"]
  rows = []
  for mode, kinds in measured["modes"].items():
    for kind, one in kinds.items():
      row = [mode, kind, f"{one['wall']:.1f}", f"{one['cpu']:.1f}"]
      row += [f"{one['seconds'][part]:.1f}" for part in _PARTS]
      rows.append([*row, one["programs"], one["programs_from_cache"]])
  if "peer" in measured:
    peer = measured["peer"]
    row = ["torch, transformers, peft", "load", f"{peer['wall']:.1f}"]
    inside = [start["inside"] for start in peer["starts"]]
    row += [f"{peer['cpu']:.1f}"]
    row += [f"{statistics.median(one['import'] for one in inside):.1f}", None]
    row += [f"{statistics.median(one['load'] for one in inside):.1f}"]
    rows.append([*row, None, None, None])
  print(table.format_table(headers, rows))


def main() -> None:
  """Parses arguments, measures, prints a table and writes JSON."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--peer", action="store_true")
  parser.add_argument("--json", default="")
  parser.add_argument("--variant", choices=("", "tiny"), default="tiny")
  parser.add_argument("--modes", nargs="+", choices=_OWN, default=list(_OWN))
  parser.add_argument("--made", type=pathlib.Path, default=None)
  parser.add_argument("--rounds", type=int, default=3)
  arguments, arguments.flags = parser.parse_known_args()
  if wrong := [f for f in arguments.flags if not f.startswith("--config.")]:
    parser.error(f"unknown: {' '.join(wrong)}")
  result = {
    "what": vars(arguments) | {"made": str(arguments.made or "")},
    "hardware": {
      "processor": platform.processor() or platform.machine(),
      "cores": len(os.sched_getaffinity(0)),
      "load_before": os.getloadavg()[0],
    },
    "versions": {name: metadata.version(name) for name in _PACKAGES}
    | {"python": platform.python_version()},
  }
  with tempfile.TemporaryDirectory() as folder:
    result |= measure(arguments, pathlib.Path(folder))
  _show(result)
  if arguments.json:
    scratch.write_json(arguments.json, result)


if __name__ == "__main__":
  main()
