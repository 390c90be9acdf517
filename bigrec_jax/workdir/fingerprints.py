"""Names of values, files and folders by their content."""

import hashlib
import json
import os
import pathlib
from typing import Any


def of_value(value: Any) -> str:
  """Returns 16 hex digits that name a JSON-like value, or bytes, for good."""
  if not isinstance(value, bytes):
    value = _written(value)
  return hashlib.sha256(value).hexdigest()[:16]


class OfList:
  """Names a list as `of_value` does, a value at a time."""

  def __init__(self) -> None:
    self._digest = hashlib.sha256(b"[")
    self._between = ""

  def add(self, value: Any) -> None:
    """Takes the next value of the list."""
    self._digest.update(_written(value, self._between))
    self._between = ", "

  def name(self) -> str:
    """Returns the fingerprint of the list up to here."""
    digest = self._digest.copy()
    digest.update(b"]")
    return digest.hexdigest()[:16]


def _written(value: Any, before: str = "") -> bytes:
  text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
  return (before + text).encode("utf-8", "surrogatepass")


def of_file(path: str | os.PathLike) -> str:
  """Returns the fingerprint of a file's bytes; the file is streamed."""
  digest = hashlib.sha256()
  with open(path, "rb") as file:
    while block := file.read(1 << 20):
      digest.update(block)
  return digest.hexdigest()[:16]


def of_folder(folder: pathlib.Path, pattern: str) -> str:
  """Returns a fingerprint of the files in `folder` that match `pattern`.

  Of a file over 2 MiB only its size, first and last MiB count: reading 14 GB
  of weights to name them would take longer than loading them.
  """
  paths = sorted(folder.glob(pattern))
  return of_value({path.name: ends(path) for path in paths})


def of_file_ends(path: pathlib.Path) -> str:
  """Returns a fingerprint of a file as `of_folder` makes one."""
  return of_value(ends(path))


def is_whole(size: int) -> bool:
  """Returns whether the ends of a file of this size are all of it."""
  return size <= 2 << 20


def ends(path: pathlib.Path) -> list[int | str]:
  """Returns a file's size and the fingerprint of its first and last MiB."""
  size = path.stat().st_size
  with open(path, "rb") as file:
    content = file.read(1 << 20)
    if not is_whole(size):
      file.seek(-(1 << 20), 2)
    content += file.read()
  return [size, of_value(content)]
