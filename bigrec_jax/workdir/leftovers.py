"""Names of files and folders that are being written, and who removes them.

Whatever is written gets its own name once it is whole. Until then it has one
that no other process gives, and that says whose it is: what a killed process
left behind is removed by the next one that writes there.
"""

import contextlib
import glob
import hashlib
import os
import pathlib
import re
import secrets
import shutil
import socket

# Of this version: host, process and a random part. Of those before it: the
# process alone.
_NAME = re.compile(
  r"\..+\.(?:(?P<host>[0-9a-f]{6})-)?(?P<process>\d+)(?:-[0-9a-f]{8})?\.tmp"
)


def _host() -> str:
  return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def unique(path: pathlib.Path) -> pathlib.Path:
  """Returns the name of a sibling that nobody else writes."""
  own = f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
  return path.with_name(f".{path.name}.{own}.tmp")


def clean(root: pathlib.Path) -> None:
  """Removes what dead processes left anywhere in a folder."""
  for folder, folders, files in os.walk(root):
    for name in [*folders, *files]:
      if _is_dead(name):
        _remove(pathlib.Path(folder, name))
    folders[:] = [name for name in folders if not _is_dead(name)]


def clean_beside(path: pathlib.Path) -> None:
  """Removes what dead processes left of one file or folder."""
  for found in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
    if _is_dead(found.name):
      _remove(found)


def _is_dead(name: str) -> bool:
  """Returns whether a name is of a process that is no more.

  Of other hosts nobody here knows.
  """
  match = _NAME.fullmatch(name)
  if match is None or match["host"] not in (None, _host()):
    return False
  return not is_alive(int(match["process"]))


def is_alive(process: int) -> bool:
  """Returns whether there is such a process on this host."""
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return False
  except (OSError, OverflowError):  # It is there, of another user.
    pass
  return True


def _remove(path: pathlib.Path) -> None:
  with contextlib.suppress(OSError):
    if path.is_dir() and not path.is_symlink():
      shutil.rmtree(path)
    else:
      path.unlink()
