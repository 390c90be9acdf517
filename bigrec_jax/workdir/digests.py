"""Full digests of files, and stamps that say when one has to be taken again.

A file of the size and time that it had when it was digested is taken to be
what it was: 14 GB of weights are read from end to end once, not at each start.
"""

import concurrent.futures
import contextlib
import hashlib
import io
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from bigrec_jax import progress
from bigrec_jax.workdir import processes

_BLOCK = 1 << 26  # Bytes that a thread digests at a time.
_FEW = 1 << 24  # Bytes that are not worth threads.
_LONG = 1 << 31  # Bytes whose progress is shown.


class Stamp(NamedTuple):
  """What a file was when it was digested.

  Attributes:
    size: in bytes.
    mtime_ns: time of its last change.
    digest: of all bytes, 32 hexadecimal digits.
  """

  size: int
  mtime_ns: int
  digest: str

  def is_of(self, state: os.stat_result) -> bool:
    """Returns whether a file has this size and time."""
    return (state.st_size, state.st_mtime_ns) == (self.size, self.mtime_ns)


def parse(value: Any) -> dict[str, Stamp] | None:
  """Returns the stamps by name that JSON holds, None where it holds others."""
  if not isinstance(value, Mapping):
    return None
  found = {}
  for name, stamp in value.items():
    kinds = [int, int, str]
    if not isinstance(stamp, list) or list(map(type, stamp)) != kinds:
      return None
    found[name] = Stamp(*stamp)
  return found


def of_file(path: str | os.PathLike) -> str:
  """Returns the digest of a file's bytes: of the digests of its blocks."""
  return of_files([pathlib.Path(path)])[pathlib.Path(path)].digest


def of_files(paths: Iterable[pathlib.Path]) -> dict[pathlib.Path, Stamp]:
  """Returns the stamps of files, in parallel where they are large.

  A file that is changed meanwhile has a stamp that no longer fits it.

  Raises:
    OSError: one can't be read.
  """
  states = {path: path.stat() for path in paths}
  work = [
    (path, start)
    for path, state in states.items()
    for start in range(0, max(state.st_size, 1), _BLOCK)
  ]
  total = sum(state.st_size for state in states.values())
  if total <= _FEW:
    blocks = [_block(*one) for one in work]
  else:
    blocks = _in_threads(work, total)
  joined: dict[pathlib.Path, bytes] = dict.fromkeys(states, b"")
  for (path, _), block in zip(work, blocks, strict=True):
    joined[path] += block
  return {
    path: Stamp(
      state.st_size,
      state.st_mtime_ns,
      hashlib.sha256(joined[path]).hexdigest()[:32],
    )
    for path, state in states.items()
  }


def _in_threads(
  work: list[tuple[pathlib.Path, int]], total: int
) -> list[bytes]:
  # Only what takes seconds is shown, and by one process of several.
  stream = sys.stderr if processes.is_first() else io.StringIO()
  shown = (
    progress.Progress(total >> 20, "MiB", "digests", stream)
    if total >= _LONG
    else contextlib.nullcontext(progress.NullProgress())
  )
  blocks = []
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    with shown as reports:
      for block in pool.map(lambda one: _block(*one), work):
        blocks.append(block)
        reports.update(_BLOCK >> 20)
  return blocks


def _block(path: pathlib.Path, start: int) -> bytes:
  digest = hashlib.sha256()
  with open(path, "rb") as file:
    file.seek(start)
    left = _BLOCK
    while left and (part := file.read(min(left, 1 << 20))):
      digest.update(part)
      left -= len(part)
  return digest.digest()
