"""A Python that has torch, transformers and peft, made where there is none.

The product never imports them, so the environment that it is installed in may
lack them. Then an environment with the pinned versions (constraints.txt) is
made once under .scratch/.

Results are written here too, so that all of them name the commit.
"""

import argparse
import importlib.util
import os
import pathlib
import platform
import subprocess
import sys
import venv
import zlib
from typing import Any

from bigrec_jax.workdir import storage

PEERS = ("torch", "transformers", "peft", "datasets", "pandas", "pytest")
_ROOT = pathlib.Path(__file__).resolve().parents[1]
_READY = "ready"


def missing() -> list[str]:
  """Returns the peers that this interpreter cannot import."""
  return [name for name in PEERS if importlib.util.find_spec(name) is None]


def interpreter() -> str:
  """Returns a Python that can import all peers: this one, or a scratch one.

  Raises:
    CalledProcessError: pip failed.
  """
  if not missing():
    return sys.executable
  home = _home()
  python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
  if not (home / _READY).exists():
    print(f"installing {', '.join(missing())} into {home}", file=sys.stderr)
    venv.create(home, with_pip=True, clear=True)
    command = [python, "-m", "pip", "install", "--quiet"]
    command += ["--constraint", _ROOT / "constraints.txt"]
    command += ["--editable", f"{_ROOT}[test,peers]"]
    subprocess.run(command, check=True)
    (home / _READY).touch()
  return str(python)


def ensure_peers(module: str) -> None:
  """Returns if this interpreter has all peers, else starts again in one.

  Args:
    module: what `python -m` was given, e.g. "benchmarks.parity".

  Raises:
    RuntimeError: the scratch environment lacks a peer as well.
    CalledProcessError: pip failed.
  """
  lacking = missing()
  if not lacking:
    return
  if pathlib.Path(sys.prefix).resolve() == _home().resolve():
    raise RuntimeError(f"{_home()}: no {', '.join(lacking)}; delete it")
  python = interpreter()
  os.execv(python, [python, "-m", module, *sys.argv[1:]])


def _home() -> pathlib.Path:
  """Returns a folder named by the versions that it holds."""
  pinned = (_ROOT / "constraints.txt").read_bytes()
  return _ROOT / ".scratch" / f"peers-{zlib.crc32(pinned):08x}"


def commit() -> str:
  """Returns the commit of the repository, "-dirty" where files differ.

  Results don't count: who makes one again has to remove it first.
  """

  def git(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
      ["git", *command], cwd=_ROOT, capture_output=True, text=True
    )

  found = git("rev-parse", "--short=12", "HEAD").stdout.strip()
  if not found:
    return "unknown"
  code = ("--", ".", ":(exclude)benchmarks/results")
  return found + "-dirty" * bool(
    git("diff", "--quiet", "HEAD", *code).returncode
  )


def write_json(path: str | pathlib.Path, result: dict[str, Any]) -> None:
  """Writes the result of a benchmark, and of which commit it is.

  Args:
    path: the file.
    result: what was measured.
  """
  storage.write_json(path, {"commit": commit()} | result)


def named(arguments: argparse.Namespace) -> dict[str, Any]:
  """Returns the arguments; of files their names alone.

  Where they lie is nobody's business, and differs from machine to machine.
  """
  files = ("data", "json", "tokenizer")
  return {
    key: pathlib.Path(str(own)).name if key in files and own else own
    for key, own in vars(arguments).items()
  }


def surroundings(cores: int) -> dict[str, Any]:
  """Returns the hardware and versions that a result was measured with.

  Args:
    cores: that were used.
  """
  import jax

  return {
    "hardware": {
      "devices": [str(device) for device in jax.devices()],
      "processor": platform.processor() or platform.machine(),
      "cores": cores,
    },
    "versions": {"jax": jax.__version__, "python": platform.python_version()},
  }
