"""Processes that a benchmark starts, none of which outlives it.

Whoever kills a benchmark, by SIGKILL even, must not find its server running,
with its memory and cores, an hour later. Linux kills a child whose parent is
gone, where the child has asked for that; elsewhere a child is killed where the
benchmark ends in the usual ways.
"""

import atexit
import os
import subprocess
import sys
import weakref
from collections.abc import Sequence
from typing import Any

# Run by the child before it becomes the command. Not `preexec_fn`: that runs
# Python in the fork of a process that may have threads, such as JAX's.
_ASKS = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() != int(parent):
  sys.exit("the parent has gone")
os.execv(command[0], command)
"""

_started: "weakref.WeakSet[subprocess.Popen[Any]]" = weakref.WeakSet()


def start(command: Sequence[object], **options: Any) -> "subprocess.Popen[Any]":
  """Returns a process that ends with this one, at the latest.

  A thread that ends takes its children with it, so the main one should ask.

  Args:
    command: path of a program and its arguments.
    **options: of `subprocess.Popen`.
  """
  if not _started:
    atexit.register(_kill_all)
  process = subprocess.Popen(_command(command), **options)
  _started.add(process)
  return process


def run(
  command: Sequence[object], **options: Any
) -> "subprocess.CompletedProcess[Any]":
  """Runs such a process; returns what `subprocess.run` does.

  Args:
    command: path of a program and its arguments.
    **options: of `subprocess.run`.
  """
  return subprocess.run(_command(command), **options)


def cpu_seconds(pid: int) -> float | None:
  """Returns the CPU seconds of a process so far; None where nobody says.

  On a machine that others use, too, they tell more than seconds of the clock.
  """
  try:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
      fields = file.read().rpartition(")")[2].split()
  except OSError:
    return None
  return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _command(command: Sequence[object]) -> list[str]:
  own = list(map(str, command))
  if not sys.platform.startswith("linux"):
    return own
  asks = [sys.executable, "-I", "-S", "-c", _ASKS, str(os.getpid())]
  return [*asks, *own]


def _kill_all() -> None:
  for process in list(_started):
    if process.poll() is None:
      process.kill()
