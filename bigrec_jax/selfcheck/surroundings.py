"""What a job stands on: devices, memory, versions, folders it writes to."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
import shutil
import tempfile
import time
from typing import Any

import jax
import numpy as np

from bigrec_jax.selfcheck import comparison
from bigrec_jax.workdir import processes

_PACKAGES = ("bigrec_jax", "jax", "jaxlib", "libtpu", "flax", "numpy")
_GIB = 1 << 30


def versions() -> dict[str, str]:
  """Returns the versions of Python and of what computes."""
  found = {"python": platform.python_version()}
  for package in _PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def devices() -> dict[str, Any]:
  """Returns what this process sees of the devices, as JSON."""
  own = jax.local_devices()
  stats = [device.memory_stats() or {} for device in own]
  return {
    "platform": own[0].platform,
    "kind": own[0].device_kind,
    "count": jax.device_count(),
    "processes": jax.process_count(),
    "memory": [
      {
        name: stat[name]
        for name in ("bytes_limit", "bytes_in_use", "peak_bytes_in_use")
        if name in stat
      }
      for stat in stats
    ],
  }


def describe(found: dict[str, Any]) -> str:
  """Returns the devices in words, e.g. for the first line.

  Args:
    found: by `devices`.
  """
  line = f"{found['count']} {found['kind']} ({found['platform']})"
  if found["processes"] > 1:
    line += f" of {found['processes']} processes"
  return line


def memory(found: dict[str, Any]) -> str:
  """Returns the memory of the first process's devices in words."""
  known = [one for one in found["memory"] if "bytes_limit" in one]
  if not known:
    return f"{found['platform']} devices do not say how much memory they have"
  limits = {round(one["bytes_limit"] / _GIB, 2) for one in known}
  used = max(one.get("bytes_in_use", 0) for one in known) / _GIB
  each = " or ".join(f"{limit:g}" for limit in sorted(limits))
  return f"{each} GiB a device, at most {used:.2f} GiB of it in use"


def folder(name: str, path: pathlib.Path, *, shared: bool) -> comparison.Row:
  """Tries whether the first process can write to a folder.

  Args:
    name: what the folder is.
    path: made if it is not there.
    shared: all processes have to see what is written.
  """
  begin, problem = time.monotonic(), ""
  token = f".selfcheck.{processes.ask(_some_number)}"
  try:
    if processes.is_first():
      path.mkdir(parents=True, exist_ok=True)
      with tempfile.NamedTemporaryFile(dir=path) as file:
        file.write(bytes(4096))
        file.flush()
        os.fsync(file.fileno())
        shutil.copyfile(file.name, path / f"{token}.part")
      os.replace(path / f"{token}.part", path / token)
  except OSError as error:
    problem = f"{error.filename or path}: {error.strerror}"
  _count(True)  # It is written.
  seen = _count((path / token).is_file())
  if processes.is_first() and shared and not problem:
    if seen < jax.process_count():
      problem = f"{path}: a file of the first process is seen by {seen} of"
      problem += f" {jax.process_count()} processes; all have to share it"
  _count(True)  # All have looked.
  if processes.is_first():
    with contextlib.suppress(OSError):  # Where nothing can be written.
      (path / token).unlink()
  seconds = time.monotonic() - begin
  return comparison.Row(
    f"writes to the {name}", str(path), 0, {}, {}, seconds, problem
  )


def _some_number() -> int:
  return int.from_bytes(os.urandom(3))


def _count(seen: bool) -> int:
  """Returns how many processes say yes."""
  if not processes.joined():
    return int(seen)
  from jax.experimental import multihost_utils

  return int(multihost_utils.process_allgather(np.int32(seen)).sum())
