"""Runs of several processes of which one is killed or interrupted.

All are processes of this machine, one forced CPU device each, that share a
workdir. At a random moment, which may be before they have met, one of them is
killed or told to stop: the others have to end within ten seconds, with one
line and the promised status. Then the same command, by another number of
processes, has to end as if nothing had been.
"""

import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time

from benchmarks import (
  children,
  survive_commands as commands_lib,
  survive_kills,
)

_ROOT = pathlib.Path(__file__).resolve().parents[1]
# Processes are started, and how many go on after that.
_COUNTS = ((2, 1), (1, 2), (2, 4), (4, 2))
_SOON = 10.0
_TOGETHER = 600.0  # Seconds for what nobody stops.
# Whoever dies before it has said that it is there is not missed, but waited
# for; see docs/scaling.md.
_FIRST_WORD = 1.0


class Group:
  """The processes of one run."""

  def __init__(self, count: int, *flags: str):
    """Starts them.

    Args:
      count: of processes; one is started without --distributed.
      *flags: of main.py.
    """
    with socket.socket() as free:
      free.bind(("localhost", 0))
      address = f"localhost:{free.getsockname()[1]}"
    together = ("--distributed",) if count > 1 else ()
    self.err = [tempfile.TemporaryFile("w+") for _ in range(count)]
    self.processes = [
      children.start(
        [sys.executable, "main.py", *together, *flags],
        cwd=_ROOT,
        env=_environment(address, count, own),
        stdout=subprocess.DEVNULL,
        stderr=err,
      )
      for own, err in enumerate(self.err)
    ]

  def end(self, seconds: float) -> list[commands_lib.Ended]:
    """Waits for all; those that do not end are killed."""
    started, found = time.perf_counter(), []
    for process, err in zip(self.processes, self.err, strict=True):
      left = max(started + seconds - time.perf_counter(), 0.1)
      try:
        status = process.wait(left)
      except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        status = -1000
      err.seek(0)
      text = err.read()
      err.close()
      took = time.perf_counter() - started
      found.append(commands_lib.Ended(status, "", text, took))
    return found


def _environment(address: str, count: int, own: int) -> dict[str, str]:
  kept = {  # A proxy would stand between the processes.
    name: value
    for name, value in os.environ.items()
    if not name.lower().endswith("_proxy")
  }
  return kept | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=1"
    " --xla_backend_optimization_level=0",
    "JAX_COORDINATOR_ADDRESS": address,
    "JAX_NUM_PROCESSES": str(count),
    "JAX_PROCESS_ID": str(own),
  }


def _wrong_ends(
  ends: list[commands_lib.Ended], victim: int, number: int
) -> str:
  """Returns what is wrong with how the processes ended, "" if nothing."""
  if all(end.status == 0 for end in ends):
    return ""  # They were done before.
  for own, end in enumerate(ends):
    if number == signal.SIGKILL and own == victim:
      continue
    status, start = 2, f"stopped: process {victim} of {len(ends)} is gone"
    if number != signal.SIGKILL:
      status, start = 128 + number, "interrupted by "
    lines = [x for x in end.err.splitlines() if x.startswith(start)]
    if end.status != status or len(lines) != 1 or end.has_dump:
      return f"process {own}: {end.told()}"
  return ""


def several(
  made: pathlib.Path, seed: int, rounds: int, modes: tuple[str, ...]
) -> commands_lib.Tally:
  """Stops one of several processes at random moments.

  Args:
    made: a finished workdir, of one process.
    seed: of the moments, the victims, the signals and the counts.
    rounds: for each mode.
    modes: to stop.
  """
  draw = random.Random(f"{seed} several")
  tally = commands_lib.Tally("one of several processes")
  target = made.parent / "together"
  expected = commands_lib.results(made)
  for mode in modes:
    workdir = survive_kills.unmade(mode, made, target)
    flags = (f"--mode={mode}", f"--workdir={workdir}")
    started = time.perf_counter()
    Group(2, *flags).end(_TOGETHER)
    whole = time.perf_counter() - started
    for _ in range(rounds):
      survive_kills.unmade(mode, made, target)
      before, after = draw.choice(_COUNTS)
      number = draw.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
      victim = draw.randrange(before)
      moment = draw.uniform(min(_FIRST_WORD, whole / 2), whole)
      group = Group(before, *flags)
      time.sleep(moment)
      group.processes[victim].send_signal(number)
      ends = group.end(_SOON)
      case = (
        f"{mode} by {before}, {signal.Signals(number).name} to {victim} after"
        f" {moment:.1f} of {whole:.1f} s, then by {after}"
      )
      if before > 1 or number != signal.SIGKILL:
        if problem := _wrong_ends(ends, victim, number):
          tally.add(case, "lost", problem)
          continue
      again = Group(after, *flags).end(_TOGETHER)
      rest = Group(1, "--mode=pipeline", flags[1]).end(_TOGETHER)
      bad = [end for end in again + rest if end.status or end.has_dump]
      if bad:
        tally.add(case, "lost", f"again: {bad[0].told()}")
        continue
      line = _differs(commands_lib.results(workdir), expected)
      tally.add(case, "lost" if line else "healed", line)
  return tally


def _differs(found: dict, expected: dict) -> str:
  """Returns where ranks differ; sums depend on the number of devices."""
  keys = [key for key in expected if key.endswith(" texts")]
  ours, theirs = ({k: x[k] for k in keys} for x in (found, expected))
  if line := commands_lib.difference(ours, theirs):
    return line
  rows = [
    [(r["split"], r["injection"], r["hr"]) for r in x["ground_eval"]]
    for x in (found, expected)
  ]
  return commands_lib.difference(rows[0], rows[1], "hr")
