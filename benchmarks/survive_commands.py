"""Commands of main.py in forked processes, and what became of them.

A user's command spends seconds on imports. Here one process imports all that
the modes need, without touching a device, and forks for each command; from
then on a command runs as it would from a shell, with its own signals, standard
output and exit status.
"""

import dataclasses
import importlib
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from bigrec_jax.workdir import interrupts

ROOT = pathlib.Path(__file__).resolve().parents[1]
# What modes import, and nothing that begins to use a device when it is read.
_HEAVY = (
  "absl.logging",
  "flax.linen",
  "grain.python",
  "jax",
  "jax.experimental.shard_map",
  "matplotlib.pyplot",
  "optax",
  "orbax.checkpoint",
  "safetensors.numpy",
  "tensorboardX",
  "tensorflow_datasets",
  "tokenizers",
  "transformers",
)
OUTCOMES = ("right", "healed", "refused", "lost")
_TIMED_OUT = -1000


@dataclasses.dataclass(frozen=True)
class Ended:
  """A command that ended.

  Attributes:
    status: of the exit; negative: the signal that ended it.
    out: its standard output.
    err: its standard error.
    seconds: that it ran.
  """

  status: int
  out: str
  err: str
  seconds: float

  @property
  def errors(self) -> list[str]:
    """The lines that say why it ended."""
    return [x for x in self.err.splitlines() if x.startswith("error: ")]

  @property
  def is_refusal(self) -> bool:
    """Whether it ended as a user's mistake does: one line, status 2."""
    return self.status == 2 and len(self.errors) == 1 and not self.has_dump

  @property
  def has_dump(self) -> bool:
    """Whether it shows the insides of a program to its user."""
    marks = ("Traceback (most recent", "\nF0", "*** SIG", "Fatal Python")
    return any(mark in self.err for mark in marks)

  def told(self) -> str:
    """Returns its last words."""
    lines = self.errors or self.err.strip().splitlines()
    return f"status {self.status}: {lines[-1] if lines else ''}"[:300]


@dataclasses.dataclass(frozen=True)
class Running:
  """A command that was started."""

  process: int
  folder: pathlib.Path
  started: float

  def wait(self, timeout: float = 300) -> Ended:
    """Returns how it ends; after `timeout` seconds it is killed."""
    status = None
    while status is None:
      found, code = os.waitpid(self.process, os.WNOHANG)
      if found:
        status = os.waitstatus_to_exitcode(code)
      elif time.perf_counter() - self.started > timeout:
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        status = _TIMED_OUT
      else:
        time.sleep(0.01)
    seconds = time.perf_counter() - self.started
    files = [self.folder / name for name in ("out", "err")]
    # A kill may come before they are there.
    texts = [f.read_text(errors="replace") if f.exists() else "" for f in files]
    return Ended(status, texts[0], texts[1], seconds)

  def kill(self, number: int) -> None:
    """Sends a signal; nothing happens to one that has ended."""
    os.kill(self.process, number)  # Not waited for yet, so it is there.


class Commands:
  """Starts commands of main.py in copies of this process."""

  def __init__(self, folder: pathlib.Path):
    """Imports what modes need.

    Args:
      folder: for outputs and compiled programs.
    """
    self._folder, self._count = folder, 0
    # JAX reads them when it is imported, which a fork finds done.
    os.environ["JAX_PLATFORMS"] = "cpu"
    cache = os.environ.setdefault(
      "JAX_COMPILATION_CACHE_DIR", str(folder / "compiled")
    )
    pathlib.Path(cache).mkdir(parents=True, exist_ok=True)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in _HEAVY:
      importlib.import_module(name)
    self._main = importlib.import_module("main")

  def start(self, *flags: str, cwd: pathlib.Path | None = None) -> Running:
    """Starts `python main.py *flags`."""
    self._count += 1
    folder = self._folder / f"command{self._count}"
    folder.mkdir(parents=True)
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
      self._run(flags, folder, cwd or self._folder)
    return Running(process, folder, time.perf_counter())

  def run(self, *flags: str, timeout: float = 300, **other: Any) -> Ended:
    """Runs `python main.py *flags` to its end."""
    return self.start(*flags, **other).wait(timeout)

  def _run(
    self, flags: tuple[str, ...], folder: pathlib.Path, cwd: pathlib.Path
  ) -> None:
    """Is the command; never returns."""
    status = 1
    try:
      for number, name in ((1, "out"), (2, "err")):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
      os.chdir(cwd)
      random.seed()
      sys.argv = ["main.py", *flags]  # ml_collections reads it, too.
      interrupts.install()
      status = self._main._run_and_leave(sys.argv)
    except SystemExit as error:
      status = error.code if isinstance(error.code, int) else 1
    except BaseException:
      import traceback

      traceback.print_exc()
    finally:
      sys.stdout.flush()
      sys.stderr.flush()
      os._exit(status)


@dataclasses.dataclass
class Tally:
  """What became of the cases of a kind.

  Attributes:
    kind: what was done to them.
    counts: by outcome.
    losses: of each lost case what it was and how it ended.
    refusals: of each refused case what it was and its line.
  """

  kind: str
  counts: dict[str, int] = dataclasses.field(
    default_factory=lambda: dict.fromkeys(OUTCOMES, 0)
  )
  losses: list[dict[str, str]] = dataclasses.field(default_factory=list)
  refusals: list[dict[str, str]] = dataclasses.field(default_factory=list)

  def add(self, case: str, outcome: str, told: str = "") -> None:
    """Counts a case."""
    self.counts[outcome] += 1
    if outcome == "refused":
      self.refusals.append({"case": case, "told": told})
    if outcome == "lost":
      self.losses.append({"case": case, "told": told})
      print(f"lost: {self.kind}: {case}: {told}", file=sys.stderr, flush=True)

  @property
  def tried(self) -> int:
    """How many cases there were."""
    return sum(self.counts.values())

  def to_json(self) -> dict[str, Any]:
    """Returns what a file keeps."""
    return {
      "tried": self.tried,
      **self.counts,
      "losses": self.losses,
      "refusals": self.refusals,
    }


def results(workdir: pathlib.Path) -> dict[str, Any]:
  """Returns what a run is for: predictions, metrics, ranks and lists."""
  found: dict[str, Any] = {}
  for split in ("valid", "test"):
    rows = json.loads((workdir / "predictions" / f"{split}.json").read_text())
    found[f"{split} texts"] = [row["predict"] for row in rows]
    found[f"{split} scores"] = [row["scores"] for row in rows]
    with np.load(workdir / "ranks" / f"{split}.npz") as arrays:
      found |= {f"{split} {k}": v.tolist() for k, v in arrays.items()}
  evaluation = json.loads(
    (workdir / "metrics" / "ground_eval.json").read_text()
  )
  found["ground_eval"] = evaluation["results"]
  lines = (workdir / "metrics" / "train.jsonl").read_text().splitlines()
  found["train"] = [json.loads(line) for line in lines]
  return found


def difference(found: Any, expected: Any, place: str = "") -> str:
  """Returns where two results differ first, "" if they are equal."""
  if isinstance(expected, dict) and isinstance(found, dict):
    for key in sorted(expected.keys() | found.keys()):
      if key not in found or key not in expected:
        return f"{place}.{key}: in one of both"
      if line := difference(found[key], expected[key], f"{place}.{key}"):
        return line
    return ""
  if isinstance(expected, list) and isinstance(found, list):
    if len(found) != len(expected):
      return f"{place}: {len(found)} in place of {len(expected)}"
    pairs = enumerate(zip(found, expected, strict=True))
    lines = (difference(a, b, f"{place}[{n}]") for n, (a, b) in pairs)
    return next(filter(None, lines), "")
  return "" if found == expected else f"{place}: {found} not {expected}"[:200]


def copies(made: pathlib.Path, folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields copies of a workdir, each gone when the next is asked for."""
  while True:
    target = folder / "copy"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(made, target, symlinks=True)
    yield target
