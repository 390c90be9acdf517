"""Runs main.py as a user does."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(*flags, devices=8, check=True, timeout=900):
  """Runs `python main.py *flags` on forced CPU devices."""
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
  }
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


def mistake(*flags, **options):
  """Returns the one line of a user's mistake, after checking its form."""
  result = run(*flags, check=False, **options)
  lines = [
    line for line in result.stderr.splitlines() if line.startswith("error: ")
  ]
  assert result.returncode == 2, result.stderr[-3000:]
  assert len(lines) == 1 and "Traceback" not in result.stderr
  return lines[0]
