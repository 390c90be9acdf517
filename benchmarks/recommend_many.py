"""Users a second, and memory, of --mode=recommend for a file of histories.

  python -m benchmarks.recommend_many --workdir=runs/demo --json=results.json

Each number of users (fewest first, so that programs are compiled by then) is a
whole process on a copy of a finished workdir. Histories are drawn from the
catalogue, one to ten items long, so no two texts need be alike. Wall seconds
have the start in them; `users/s` is of the users that the last has more than
the one before. Peak memory is the process's own, as the system counts it.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import children, scratch
from bigrec_jax.data.prepared import catalogue as catalogue_lib
from bigrec_jax.results import table
from bigrec_jax.workdir import paths as paths_lib

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_LONGEST = 10


def write_histories(path: pathlib.Path, ids: Sequence[str], users: int) -> None:
  """Writes histories of items of the catalogue, a line each."""
  rng = np.random.default_rng(0)
  with path.open("w") as file:
    for length in rng.integers(1, _LONGEST + 1, users):
      rows = rng.choice(len(ids), length, replace=False)
      print(json.dumps({"history": [ids[row] for row in rows]}), file=file)


def measure(
  root: pathlib.Path, users: int, flags: Sequence[str]
) -> dict[str, Any]:
  """Returns seconds and peak memory of lists for so many users.

  Args:
    root: a finished workdir; lists are written into it.
    users: how many.
    flags: of main.py, beside those that this takes.
  """
  histories = root / f"{users}.jsonl"
  ids = catalogue_lib.load(paths_lib.Paths(root)).external_ids
  write_histories(histories, ids, users)
  output = root / f"lists-{users}.jsonl"
  command = [sys.executable, "main.py", "--mode=recommend"]
  command += [f"--workdir={root}", f"--config.recommend.histories={histories}"]
  command += [f"--config.recommend.output={output}", *flags]
  start = time.perf_counter()
  process = children.start(command, cwd=_ROOT)
  _, status, used = os.wait4(process.pid, 0)
  wall = time.perf_counter() - start
  process.returncode = os.waitstatus_to_exitcode(status)
  if process.returncode:
    raise RuntimeError(f"main.py: exit status {process.returncode}")
  with output.open() as file:
    written = sum(1 for _ in file)
  if written != users:
    raise RuntimeError(f"{output}: {written} lines found, {users} expected")
  return {
    "users": users,
    "wall": round(wall, 2),
    "cpu": round(used.ru_utime + used.ru_stime, 2),
    "peak_mib": round(used.ru_maxrss / 2**10),
  }


def main() -> None:
  """Measures, prints a table, writes JSON."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--workdir", required=True, help="finished; it is copied")
  parser.add_argument("--users", default="100,2000,20000")
  parser.add_argument("--json")
  arguments, flags = parser.parse_known_args()
  counts = sorted(map(int, arguments.users.split(",")))
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder) / "workdir"
    shutil.copytree(arguments.workdir, root, symlinks=True)
    runs = [measure(root, users, flags) for users in counts]
  columns = ["users", "wall", "cpu", "peak_mib"]
  rows = [[str(run[name]) for name in columns] for run in runs]
  print(table.format_table(columns, rows))
  found: dict[str, Any] = {"runs": runs}
  if len(runs) > 1:
    first, last = runs[-2:]
    more = last["users"] - first["users"]
    rate = more / (last["wall"] - first["wall"])
    found["users_per_second"] = round(rate, 1)
    print(f"users/s: {found['users_per_second']}")
  if arguments.json:
    arguments.workdir = pathlib.Path(arguments.workdir).name
    about = {"arguments": scratch.named(arguments), "flags": flags}
    cores = os.cpu_count() or 1
    scratch.write_json(
      arguments.json, about | scratch.surroundings(cores) | found
    )


if __name__ == "__main__":
  main()
