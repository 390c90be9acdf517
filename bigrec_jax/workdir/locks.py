"""One writer a workdir, and one a file that readers of it write.

The lock itself is the kernel's (flock), so that it ends with its owner,
however that ends; a file beside it says who that is, for whoever comes second.
Where the file system has no flock, a lock is a file with its owner's host and
process, which is taken over once that process is gone.

Lock files stay where they are: to remove one would split its waiters. They
are no content, and nothing is locked by whoever only reads.
"""

import contextlib
import datetime
import errno
import os
import pathlib
import socket
import time
from collections.abc import Iterator

import filelock
from absl import logging

from bigrec_jax import errors
from bigrec_jax.workdir import leftovers, processes, storage

_NO_FLOCK = (
  errno.ENOSYS,
  errno.ENOTSUP,
  errno.EOPNOTSUPP,
  errno.ENOLCK,
)
# Whoever took a lock says so a moment later.
_PATIENCE_SECONDS = 1.0


@contextlib.contextmanager
def writer(root: pathlib.Path, mode: str) -> Iterator[None]:
  """Holds a workdir against other writers; all processes of a run call it.

  Leftovers of writers that died are removed. A folder that was made for the
  lock alone goes with it.

  Args:
    root: of the workdir.
    mode: that writes.

  Raises:
    UserError: another process writes there; the line says which.
  """
  missing = [p for p in (root, *root.parents) if not p.exists()]
  with _held(root / ".lock", root, mode):
    processes.on_first(lambda: leftovers.clean(root))
    try:
      yield
    finally:
      if missing and processes.is_first():
        _remove_if_empty(root, missing)


@contextlib.contextmanager
def output(path: pathlib.Path, mode: str) -> Iterator[None]:
  """Holds a file or folder that several readers of a workdir could write.

  Args:
    path: what is written.
    mode: that writes.

  Raises:
    UserError: another process writes it; the line says which.
  """
  with _held(path.with_name(f".{path.name}.lock"), path, mode):
    processes.on_first(lambda: leftovers.clean_beside(path))
    yield


@contextlib.contextmanager
def first_come(path: pathlib.Path) -> Iterator[bool]:
  """Yields whether this run is the one that may write something shared.

  Whoever comes second does without: it only saves time.

  Args:
    path: what is written.
  """
  held: list[filelock.BaseFileLock] = []

  def take() -> bool:
    try:
      held.append(_take(path.with_name(f".{path.name}.lock")))
    except (filelock.Timeout, OSError):
      return False
    return True

  try:
    yield processes.agree(take)
  finally:
    for lock in held:
      lock.release()


@contextlib.contextmanager
def turn(path: pathlib.Path) -> Iterator[None]:
  """Waits until no other process writes something shared; then holds it.

  Args:
    path: what is written, by the first process of a run alone.
  """
  lock = _take(path.with_name(f".{path.name}.lock"), waits=True)
  try:
    yield
  finally:
    lock.release()


@contextlib.contextmanager
def _held(lock: pathlib.Path, what: pathlib.Path, mode: str) -> Iterator[None]:
  owner = lock.with_name(f"{lock.name}.json")
  held: list[filelock.BaseFileLock] = []

  def take() -> None:
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
      held.append(_take(lock))
    except filelock.Timeout:
      raise errors.UserError(
        f"{what}: {_describe(owner)} writes it; one at a time"
      ) from None
    started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    storage.write_json(
      owner,
      {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "mode": mode,
        "started": started,
      },
    )

  processes.on_first(take)
  try:
    yield
  finally:
    for one in held:
      owner.unlink(missing_ok=True)
      one.release()


def _take(path: pathlib.Path, waits: bool = False) -> filelock.BaseFileLock:
  """Returns a lock that is held.

  Raises:
    filelock.Timeout: another process holds it.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  lock: filelock.BaseFileLock
  lock = filelock.FileLock(path, blocking=waits, fallback_to_soft=False)
  try:
    lock.acquire()
  except OSError as error:
    if isinstance(error, filelock.Timeout) or error.errno not in _NO_FLOCK:
      raise
    soft = path.with_name(f"{path.name}.soft")
    logging.warning(
      "%s: this file system has no flock; %s stands for it", path, soft.name
    )
    lock = filelock.SoftFileLock(soft, blocking=waits)
    lock.acquire()
  return lock


def _describe(owner: pathlib.Path) -> str:
  """Returns who holds a lock."""
  deadline = time.monotonic() + _PATIENCE_SECONDS
  while time.monotonic() < deadline:
    with contextlib.suppress(errors.UserError, KeyError, TypeError):
      found = storage.read_json(owner)
      if found["host"] != socket.gethostname() or leftovers.is_alive(
        int(found["process"])
      ):
        return (
          f"process {found['process']} on {found['host']}"
          f" (--mode={found['mode']}, since {found['started']})"
        )
    time.sleep(_PATIENCE_SECONDS / 10)
  return "another process"


def _remove_if_empty(root: pathlib.Path, missing: list[pathlib.Path]) -> None:
  """Removes a folder in which nothing was made, and those made for it."""
  own = {".lock", ".lock.json", ".lock.soft"}
  if {path.name for path in root.iterdir()} <= own:
    for name in own:
      (root / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
      for folder in missing:
        folder.rmdir()
