"""Runs main.py as a user does."""

import contextlib
import io
import json
import os
import pathlib
import socket
import subprocess
import sys
from concurrent import futures
from unittest import mock

from absl.testing import flagsaver

from tests import compiling

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _devices(count, optimized=False):
  """Returns the environment of a process with forced CPU devices.

  Args:
    count: of devices.
    optimized: compile as for users, and not as for tests (compiling.py).
  """
  environment = os.environ | {"JAX_PLATFORMS": "cpu"}
  flags = compiling.xla_flags(count, fast=not optimized)
  if optimized:
    environment[compiling.UNOPTIMIZED] = "0"
  return environment | {"XLA_FLAGS": flags}


def run(*flags, devices=8, check=True, timeout=900, optimized=False):
  """Runs `python main.py *flags` on forced CPU devices."""
  environment = _devices(devices, optimized)
  result = subprocess.run(
    [sys.executable, "main.py", *map(str, flags)],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
    timeout=timeout,
  )
  if check:
    assert result.returncode == 0, result.stderr[-3000:]
  return result


def here(*flags):
  """Runs main.py in this process, which takes no start.

  Returns:
    (exit status, stderr).
  """
  status, _, told = here_with_output(*flags)
  return status, told


def here_with_output(*flags):
  """Does what `here` does; returns (exit status, stdout, stderr)."""
  import main

  argv, told = ["main.py", *map(str, flags)], io.StringIO()
  with (
    mock.patch.object(sys, "argv", argv),  # config_flags looks there.
    mock.patch.object(main, "_set_up_logging"),
    mock.patch.object(main, "_set_up_jax"),
    # The last word of a process is said once, and here is another one.
    mock.patch.object(main.interrupts, "claim"),
    flagsaver.flagsaver(),
    contextlib.redirect_stderr(told),
    contextlib.redirect_stdout(io.StringIO()) as printed,
  ):
    return main.main(argv), printed.getvalue(), told.getvalue()


# Grain defines flags when it is first imported, which has to be before those
# of the first line are put back.
_ONE_PROCESS = """
import json, sys
import grain
from tests.stages import command
lines = json.load(sys.stdin)
results = [command.here_with_output(*flags) for flags in lines]
print(json.dumps([[status, out + err] for status, out, err in results]))
"""


def run_in_turn(*lines, devices=1, timeout=900):
  """Runs several command lines in one process of its own.

  Returns:
    [exit status, all that was printed] of each.
  """
  result = subprocess.run(
    [sys.executable, "-c", _ONE_PROCESS],
    cwd=ROOT,
    env=_devices(devices),
    input=json.dumps([list(map(str, flags)) for flags in lines]),
    capture_output=True,
    text=True,
    timeout=timeout,
  )
  assert result.returncode == 0, result.stderr[-3000:]
  return json.loads(result.stdout.splitlines()[-1])


def refusal(*flags):
  """Returns the one line of a mistake made in this process."""
  status, told = here(*flags)
  assert status == 2, told
  (line,) = told.splitlines()
  assert line.startswith("error: ") and line.isprintable(), line
  return line


def why_not_together():
  """Returns why processes can't find each other on this machine, or ""."""
  try:
    with socket.socket() as server, socket.socket() as client:
      server.bind((socket.gethostbyname(socket.gethostname()), 0))
      server.listen()
      client.connect(server.getsockname())
    return ""
  except OSError as error:
    return f"{socket.gethostname()} can't be reached from itself: {error}"


def run_together(processes, *flags, devices=8, timeout=900):
  """Runs main.py as the processes of one run; returns their results.

  Args:
    processes: how many; they share the forced CPU devices evenly.
    *flags: of main.py, but for --distributed.
    devices: of all processes together.
    timeout: in seconds.
  """
  own = ("main.py", "--distributed", *flags)
  return processes_together(processes, own, devices, timeout)


def processes_together(processes, arguments, devices, timeout=900):
  """Runs Python as the processes of one run; returns their results.

  Args:
    processes: how many; they share the forced CPU devices evenly.
    arguments: of Python.
    devices: of all processes together.
    timeout: in seconds.
  """
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  share = devices // processes
  started = [
    subprocess.Popen(
      [sys.executable, *map(str, arguments)],
      cwd=ROOT,
      env={  # A proxy would stand between the processes.
        name: value
        for name, value in _devices(share).items()
        if not name.lower().endswith("_proxy")
      }
      | {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(processes),
        "JAX_PROCESS_ID": str(number),
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for number in range(processes)
  ]
  # All at once: a pipe that nobody empties would stop its process.
  with futures.ThreadPoolExecutor(processes) as pool:
    outputs = pool.map(lambda p: p.communicate(timeout=timeout), started)
    return [
      subprocess.CompletedProcess(process.args, process.returncode, *output)
      for process, output in zip(started, outputs, strict=True)
    ]


def mistake(*flags, **options):
  """Returns the one line of a user's mistake, after checking its form."""
  result = run(*flags, check=False, **options)
  lines = [
    line for line in result.stderr.splitlines() if line.startswith("error: ")
  ]
  assert result.returncode == 2, result.stderr[-3000:]
  assert len(lines) == 1 and "Traceback" not in result.stderr
  return lines[0]
