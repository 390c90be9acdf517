"""What a long work has finished, on disk before the whole is: its parts.

All parts of a work are one file that is only added to, by the first process.
A part counts once its digest fits, so a kill at any moment leaves whole parts
and maybe the beginning of one, which is cut off. What is added waits in memory
for some seconds at most: that much finished work is what a kill costs.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from absl import logging

from bigrec_jax import errors
from bigrec_jax.workdir import processes

SECONDS = 10.0  # Of finished work that may wait in memory,
_BYTES = 1 << 26  # and how much of it.
# Sizes of head and content, digest of both.
_SEAL = re.compile(rb"([0-9a-f]{8}) ([0-9a-f]{16}) ([0-9a-f]{32})\n")
_SEAL_SIZE = 8 + 1 + 16 + 1 + 32 + 1
_OWNER = ""  # The key of the first part: of which work all the others are.

# Returns arrays by name that were made before under a key, or makes them.
Arrays = Mapping[str, np.ndarray]
Once = Callable[[str, Callable[[], Arrays]], Arrays]


def at_once(key: str, make: Callable[[], Arrays]) -> Arrays:
  """Makes arrays and keeps nothing: the `Once` of a short work."""
  del key
  return make()


def within(once: Once, name: str) -> Once:
  """Returns a `Once` whose keys nobody outside has."""
  return lambda key, make: once(f"{name}: {key}", make)


class Part(NamedTuple):
  """What was added at a time.

  Attributes:
    facts: a JSON-able value.
    arrays: by name.
  """

  facts: Any
  arrays: Arrays


class _Place(NamedTuple):
  """Where a part is in the file: its head, and what follows it."""

  start: int
  head: int
  size: int


class Parts:
  """The parts of one work; use as a context manager, so that errors lose none.

  Of several processes all make it, and read it, together.

  Attributes:
    path: the file; it is there from the first part on.
  """

  def __init__(self, path: pathlib.Path, work: str):
    """Reads what is there.

    Args:
      path: the file, which may be missing.
      work: names all that the work is made from; parts of another work are
        dropped.

    Raises:
      UserError: processes don't see the same file.
    """
    self.path, self._work = path, work
    self._places: dict[str, list[_Place]] = {}
    self._end = 0
    self._waiting: list[tuple[str, bytes, int]] = []
    self._waiting_bytes = 0
    self._last = time.monotonic()
    processes.on_first(self._open)
    if not processes.is_first():
      self._scan()
    found = zlib.crc32(repr(sorted(self._places.items())).encode()) >> 1
    if processes.ask(lambda: found) != found:
      raise errors.UserError(
        f"{path}: not the same in all processes, one workdir that all see"
        " expected"
      )

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    if kind is None:
      return
    try:
      self.flush()
    except errors.UserError as problem:  # What ended the work comes first.
      logging.warning("%s", problem)

  def read(self, key: str) -> Iterator[Part]:
    """Yields the parts of a key that are in the file, in order."""
    if not (places := self._places.get(key)):
      return
    with open(self.path, "rb") as file:
      for place in places:
        file.seek(place.start)
        head = json.loads(file.read(place.head))
        arrays = {}
        for name, (dtype, shape) in head["arrays"].items():
          array = np.empty(shape, np.dtype(dtype))
          file.readinto(array.reshape(-1).view(np.uint8).data)
          arrays[name] = array
        yield Part(head["facts"], arrays)

  def add(self, key: str, facts: Any, arrays: Arrays | None = None) -> None:
    """Adds a part; it is on disk some seconds later, or after `flush`.

    Args:
      key: what `read` is asked for.
      facts: a JSON-able value.
      arrays: numbers, not changed by anybody until they are written.
    """
    if not processes.is_first():
      return
    if not (self._end or self._waiting):
      self._wait(_OWNER, self._work, {})
    self._wait(key, facts, arrays or {})
    late = time.monotonic() - self._last > SECONDS
    if late or self._waiting_bytes > _BYTES:
      self.flush()

  def flush(self) -> None:
    """Writes what waits.

    Raises:
      UserError: it can't be written.
    """
    if self._waiting:
      try:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(self.path, os.O_RDWR | os.O_CREAT), "r+b") as file:
          # Behind what is whole: a write before may have been cut short.
          file.seek(self._end)
          file.writelines(content for _, content, _ in self._waiting)
          file.truncate()
      except OSError as error:
        raise errors.UserError(
          f"{self.path}: {error.strerror}; what was finished before is kept,"
          " the same command goes on from there"
        ) from None
      for key, content, head in self._waiting:
        place = _Place(self._end + _SEAL_SIZE, head, len(content) - _SEAL_SIZE)
        self._places.setdefault(key, []).append(place)
        self._end += len(content)
      self._waiting, self._waiting_bytes = [], 0
    self._last = time.monotonic()

  def once(self, key: str, make: Callable[[], Arrays]) -> Arrays:
    """Returns the arrays of a key; made, and kept, if they are not there."""
    for part in self.read(key):
      return part.arrays
    found = make()
    self.add(key, None, found)
    return found

  def _wait(self, key: str, facts: Any, arrays: Arrays) -> None:
    arrays = {name: np.ascontiguousarray(x) for name, x in arrays.items()}
    forms = {name: (x.dtype.str, x.shape) for name, x in arrays.items()}
    whole = {"key": key, "facts": facts, "arrays": forms}
    head = json.dumps(whole, allow_nan=False).encode()
    content = b"".join(x.tobytes() for x in arrays.values())
    digest = _digest(head, content)
    seal = f"{len(head):08x} {len(content):016x} {digest}\n".encode()
    self._waiting.append((key, seal + head + content, len(head)))
    self._waiting_bytes += len(head) + len(content)

  def _open(self) -> None:
    """Reads the file, and cuts off what isn't whole, or of another work."""
    self._scan()
    if self.path.exists() and (size := self.path.stat().st_size) > self._end:
      logging.warning(
        "%s: %d bytes of unfinished or damaged parts are cut off",
        self.path,
        size - self._end,
      )
      os.truncate(self.path, self._end)

  def _scan(self) -> None:
    """Finds the whole parts from the beginning on."""
    with contextlib.suppress(FileNotFoundError):
      with open(self.path, "rb") as file:
        while (found := _read_part(file)) is not None:
          head, start, head_size, size = found
          if not self._end and head != {
            "key": _OWNER,
            "facts": self._work,
            "arrays": {},
          }:
            return
          place = _Place(start, head_size, size)
          self._places.setdefault(head["key"], []).append(place)
          self._end = start + size


def _digest(*contents: bytes) -> str:
  digest = hashlib.blake2b(digest_size=16)
  for content in contents:
    digest.update(content)
  return digest.hexdigest()


def _read_part(file: Any) -> tuple[Any, int, int, int] | None:
  """Returns head, place, size of the head, of all; None if it isn't whole."""
  seal = _SEAL.fullmatch(file.read(_SEAL_SIZE))
  if seal is None:
    return None
  start, head_size = file.tell(), int(seal[1], 16)
  size = head_size + int(seal[2], 16)
  if start + size > os.fstat(file.fileno()).st_size:
    return None
  content = file.read(size)
  if _digest(content) != seal[3].decode():
    return None
  return json.loads(content[:head_size]), start, head_size, size


class Rows:
  """Finished rows of a work, each a JSON-able value.

  Attributes:
    known: by row, what was finished when the work began.
  """

  def __init__(self, parts: Parts, key: str):
    self._parts, self._key = parts, key
    self.known: dict[int, Any] = {
      row: value for part in parts.read(key) for row, value in part.facts
    }

  def add(self, row: int, value: Any) -> None:
    """Keeps a row."""
    self._parts.add(self._key, [[row, value]])


class Vectors:
  """The rows of a matrix, as far as they are finished.

  Attributes:
    values: [N, D] float32, zero where it isn't known yet.
    done: [N] bool.
  """

  def __init__(self, parts: Parts | None, key: str, count: int, width: int):
    self._parts, self._key = parts, key
    self.values = np.zeros((count, width), np.float32)
    self.done = np.zeros(count, bool)
    for part in parts.read(key) if parts is not None else ():
      rows = part.arrays["rows"]
      self.values[rows], self.done[rows] = part.arrays["values"], True

  def add(self, rows: np.ndarray, values: np.ndarray) -> None:
    """Keeps rows [R] with values [R, D]."""
    self.values[rows], self.done[rows] = values, True
    if self._parts is not None:
      arrays = {"rows": rows.astype(np.int64), "values": self.values[rows]}
      self._parts.add(self._key, None, arrays)


def discard(folder: pathlib.Path, stage: str, name: str | None) -> None:
  """Removes the parts of a stage: of one work, or of all.

  Args:
    folder: `Paths.parts`.
    stage: its name.
    name: of the work; None = all that the stage ever began.
  """
  import shutil

  for path in folder.glob(f"{stage}.{name or '*'}"):
    if path.is_dir():
      shutil.rmtree(path, ignore_errors=True)
    else:
      path.unlink(missing_ok=True)
  with contextlib.suppress(OSError):  # Others may be there, or none ever was.
    folder.rmdir()
