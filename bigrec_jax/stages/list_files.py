"""Files of lists: what they are called, which is current, what a kill leaves.

Chunks of lists are kept as parts (workdir/parts.py) until all are there; then
they are a file that is named after all that they are made from, and get the
output's name last. The record in the workdir says of which inputs the output
is, and names its content: the output may lie where others write, too.
"""

import os
import pathlib
import stat
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigrec_jax import errors
from bigrec_jax.stages.session import Session, say
from bigrec_jax.workdir import (
  fingerprints,
  given,
  parts,
  paths as paths_lib,
  records,
  storage,
)

_LINES = "lines"  # The key of the parts.
_LONGEST_LINE = 1 << 26  # Bytes; a history may have many items.


def record_of(session: Session, path: pathlib.Path) -> pathlib.Path:
  """Returns the record of an output; each has its own."""
  if paths_lib.real(path) == paths_lib.real(session.paths.recommendations):
    return session.paths.record("recommend")
  return session.paths.record(
    f"recommend_{fingerprints.of_value(str(paths_lib.real(path)))}"
  )


def check_output(session: Session, path: pathlib.Path) -> None:
  """Checks that lists may have a name: nothing else may lie under it.

  Args:
    session: configuration and workdir.
    path: `recommend.output`.

  Raises:
    UserError: it is a file that a key names, or one of the workdir's own, or
      something that no lists are in.
  """
  key = "config.recommend.output"
  state = given.state(key, path)
  if state is not None and not stat.S_ISREG(state.st_mode):
    raise errors.UserError(
      f"{key}: {path}: {given.kind(state)} found, a file expected"
    )
  values = records.flatten(session.config.to_dict())
  for other in sorted(given.INPUTS | {"recommend.histories"}):
    name = values.get(other)
    if name and (_is_same(path, name)):
      raise errors.UserError(
        f"{key}: {path} is config.{other} too, another file expected"
      )
  paths, real = session.paths, paths_lib.real(path)
  root = pathlib.Path(os.path.realpath(paths.root))
  if real.is_relative_to(root):
    first = real.relative_to(root).parts[:1]
    if first and paths.is_own(first[0]):
      raise errors.UserError(
        f"{key}: {path}: {root / first[0]} is the workdir's own, another file"
        " expected"
      )
  if state is not None and not _holds_lists(path):
    raise errors.UserError(
      f"{key}: {path}: a file found that holds no lists of recommendations,"
      " a new name expected"
    )


def _is_same(path: pathlib.Path, other: str) -> bool:
  """Returns whether two names are of one file, whatever links there are."""
  try:
    return os.path.samefile(path, other)
  except (OSError, ValueError):  # One of them isn't there.
    return os.path.realpath(path) == os.path.realpath(other)


def _holds_lists(path: pathlib.Path) -> bool:
  """Returns whether a file is empty, or its first line a list as we write."""
  with open(path, "rb") as file:
    line = file.readline(_LONGEST_LINE)
  try:
    row = storage.parse_json(line, str(path)) if line.strip() else {}
  except errors.UserError:
    return False
  return isinstance(row, dict) and (not row or "recommendations" in row)


def differences(
  record: pathlib.Path, made_from: Mapping[str, Any], path: pathlib.Path
) -> list[str]:
  """Returns why a file isn't the one of the record, and of these inputs.

  The output may lie outside the workdir, where others write, too.
  """
  if not path.exists():
    return [records.NOT_MADE]
  content = {"content": fingerprints.of_file(path)}
  return records.differences(record, {**made_from, **content})


def set_aside(path: pathlib.Path, record: pathlib.Path) -> None:
  """Keeps a file's lists under another name; a single history's are dropped."""
  old = records.read(record) or {}
  content = old.pop("content", None)
  if path.exists():
    found = fingerprints.of_file(path)
    if found != content:  # Nobody knows whose lists they are.
      old = {"content": found, "one_off": False}
    if old.get("one_off"):
      path.unlink()
    else:
      kept = beside(path, old)
      path.rename(kept)
      say(f"recommend: the lists that were there are kept as {kept.name}")
  record.unlink(missing_ok=True)


def give_name(
  kept: pathlib.Path,
  path: pathlib.Path,
  record: pathlib.Path,
  made_from: Mapping[str, Any],
) -> None:
  """Makes finished lists the output.

  The record comes first: after a kill in between the lists still have the name
  under which they are looked for.
  """
  content = {"content": fingerprints.of_file(kept)}
  storage.write_json(record, {**made_from, **content})
  os.replace(kept, path)


def beside(path: pathlib.Path, made_from: Mapping[str, Any]) -> pathlib.Path:
  """Returns where lists are that have not, or no longer, the output's name."""
  name = f"{path.stem}.{fingerprints.of_value(made_from)}{path.suffix}"
  return path.with_name(name)


def parts_of(path: pathlib.Path) -> parts.Parts:
  """Returns what was finished of a file of lists; by all processes.

  Args:
    path: named after all that the lists are made from.
  """
  return parts.Parts(path.with_name(f"{path.stem}.parts"), path.name)


def count(finished: parts.Parts) -> int:
  """Returns how many lines are finished."""
  return sum(part.facts for part in finished.read(_LINES))


def append(finished: parts.Parts, lines: list[str]) -> None:
  """Adds the lines of a chunk, which are on disk on return."""
  text = "".join(lines).encode("utf-8")
  finished.add(_LINES, len(lines), {"text": np.frombuffer(text, np.uint8)})
  finished.flush()


def finish(finished: parts.Parts, path: pathlib.Path, total: int) -> None:
  """Writes the file once all of its lines are finished."""
  if (found := count(finished)) != total:
    raise errors.UserError(
      f"{finished.path}: {found} lines found, {total} expected: does another"
      " run write it, too? Delete it and start again"
    )
  with storage.atomic_path(path) as temporary:
    with open(temporary, "wb") as file:
      for part in finished.read(_LINES):
        file.write(part.arrays["text"].tobytes())
  finished.path.unlink()
