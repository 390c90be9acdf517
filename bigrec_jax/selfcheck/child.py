"""The checks in a process of forced CPU devices, where there is one device.

python -m bigrec_jax.selfcheck.child < settings.json > rows.json
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigrec_jax.selfcheck import comparison
from bigrec_jax.workdir import storage

DEVICES = 8
_FORCE = "--xla_force_host_platform_device_count"
_ROOT = pathlib.Path(__file__).resolve().parents[2]
_SEPARATOR = "|"  # Of check and array in the names of an .npz.


def run(
  config: Mapping[str, Any],
  found: Mapping[str, Mapping[str, np.ndarray]] | None,
  name: str,
) -> list[comparison.Row]:
  """Returns the rows of a process with `DEVICES` forced CPU devices.

  Args:
    config: of the program, as JSON.
    found: what this process's own device gave, to be compared with one CPU
      device; None where it is one.
    name: of that device.
  """
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "found.npz"
    if found is not None:
      np.savez(
        path,
        allow_pickle=False,
        **{
          f"{check}{_SEPARATOR}{key}": value
          for check, arrays in found.items()
          for key, value in arrays.items()
        },
      )
    settings = {
      "config": config,
      "found": str(path) if found is not None else None,
      "name": name,
    }
    # Its input stays open: the other process leaves when this one is gone.
    with subprocess.Popen(
      [sys.executable, "-m", "bigrec_jax.selfcheck.child"],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=_environment(),
    ) as process:
      printed = _converse(process, json.dumps(settings))
  if status := process.returncode:
    problem = f"a process ended with status {status}; see above"
    where = f"{DEVICES} forced CPU devices"
    return [comparison.Row("all", where, DEVICES, {}, {}, 0.0, problem)]
  rows = storage.parse_json(printed, "selfcheck's own process")
  return [
    comparison.Row(**{k: v for k, v in row.items() if k != "agrees"})
    for row in rows
  ]


def _converse(process: "subprocess.Popen[str]", line: str) -> str:
  """Writes a line to a process; returns all that it prints."""
  if process.stdin is None or process.stdout is None:
    raise ValueError("a process with pipes expected")
  with contextlib.suppress(BrokenPipeError):  # Its status says more.
    process.stdin.write(line + "\n")
    process.stdin.flush()
  printed = process.stdout.read()
  with contextlib.suppress(BrokenPipeError):
    process.stdin.close()
  return printed


def _environment() -> dict[str, str]:
  flags = [
    flag
    for flag in os.environ.get("XLA_FLAGS", "").split()
    if not flag.startswith(_FORCE)
  ]
  path = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
  return os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": " ".join([*flags, f"{_FORCE}={DEVICES}"]),
    "PYTHONPATH": os.pathsep.join(path),
  }


def _read(path: str) -> dict[str, dict[str, np.ndarray]]:
  found: dict[str, dict[str, np.ndarray]] = {}
  with np.load(path, allow_pickle=False) as arrays:
    for name, value in arrays.items():
      check, key = name.split(_SEPARATOR)
      found.setdefault(check, {})[key] = value
  return found


def main(line: str) -> None:
  """Writes rows to the standard output.

  Args:
    line: the settings, as `run` writes them.
  """
  import jax
  import ml_collections

  from bigrec_jax import config as config_lib
  from bigrec_jax.selfcheck import meshes, run as run_lib, world

  jax.config.update("jax_default_matmul_precision", "highest")
  settings = storage.parse_json(line, "settings")
  config = config_lib.from_config_dict(
    ml_collections.ConfigDict(settings["config"])
  )
  places = meshes.make(jax.devices(), None)
  made = world.World(config, jax.device_count())
  expected = run_lib.on_one(made)
  rows = list(run_lib.on_meshes(made, places, expected))
  if settings["found"] is not None:
    found = _read(settings["found"])
    rows += run_lib.between_kinds(found, expected, settings["name"])
  json.dump([row.to_json() for row in rows], sys.stdout, allow_nan=False)


def _leave_with_parent() -> None:
  """Ends this process once nobody holds the other end of its input."""
  # Not by sys.stdin, whose lock the end of the interpreter would wait for.
  os.read(sys.stdin.fileno(), 1)
  os._exit(1)


if __name__ == "__main__":
  given = sys.stdin.readline()
  threading.Thread(target=_leave_with_parent, daemon=True).start()
  main(given)
