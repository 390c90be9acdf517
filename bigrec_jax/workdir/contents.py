"""Whether the files of an artefact hold what was written.

The record of an artefact (workdir/records.py) keeps a stamp of each of its
files. Sizes and times are compared first; bytes where those differ, and where
everything is to be verified.
"""

import dataclasses
import fnmatch
import os
import pathlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from bigrec_jax.workdir import (
  digests,
  fingerprints,
  paths as paths_lib,
  records,
  storage,
)


@dataclasses.dataclass(frozen=True)
class Content:
  """What a record says of an artefact's content.

  Attributes:
    files: stamps by path within the workdir.
    values: fingerprints of what it keeps in files that it shares, by name.
  """

  files: Mapping[str, digests.Stamp]
  values: Mapping[str, str]

  def to_json(self) -> dict[str, Any]:
    """Returns the object of a record."""
    return {
      "files": {name: list(stamp) for name, stamp in self.files.items()},
      "values": dict(self.values),
    }


@dataclasses.dataclass(frozen=True)
class Compared:
  """How files stand to their record.

  Attributes:
    problems: what isn't as it was written: a line by the file's path within
      the workdir; those that are missing are among them.
    content: of now, where nothing is wrong.
    digested: sizes of the files that were read from end to end, in bytes.
  """

  problems: Mapping[str, str]
  content: Content
  digested: tuple[int, ...]


def read(record: pathlib.Path) -> Content | None:
  """Returns what a record says; None where it says nothing of content."""
  stored = records.stored_content(record)
  if stored is None:
    return None
  files = digests.parse(stored.get("files"))
  values = stored.get("values")
  if files is None or not isinstance(values, Mapping):
    return None
  return Content(files, values)


def find(root: pathlib.Path, patterns: Iterable[str]) -> list[str]:
  """Returns the files of a workdir that match, by their paths within it.

  Args:
    root: the workdir.
    patterns: of paths within it; a star also stands for folders. Hidden files
      are nobody's.
  """
  found = set()
  for pattern in patterns:
    fixed = pattern.split("*")[0]
    top = root / fixed.rpartition("/")[0]
    if fixed == pattern:
      found |= {pattern} if (root / pattern).is_file() else set()
      continue
    for folder, inner, names in os.walk(top):
      inner[:] = [name for name in inner if not name.startswith(".")]
      for name in names:
        own = pathlib.Path(folder, name).relative_to(root).as_posix()
        if fnmatch.fnmatchcase(own, pattern) and not name.startswith("."):
          found.add(own)
  return sorted(found)


def take(
  root: pathlib.Path, patterns: Iterable[str], values: Mapping[str, Any]
) -> Content:
  """Returns the content of an artefact that was just written.

  Args:
    root: the workdir.
    patterns: of its files.
    values: what it keeps in files that it shares.
  """
  stamps = digests.of_files(root / own for own in find(root, patterns))
  return Content(
    {p.relative_to(root).as_posix(): stamp for p, stamp in stamps.items()},
    {name: fingerprints.of_value(value) for name, value in values.items()},
  )


def compare(
  root: pathlib.Path,
  content: Content,
  patterns: Collection[str] | None,
  *,
  verify: bool = False,
) -> Compared:
  """Compares files with what a record says of them.

  Args:
    root: the workdir.
    content: as the record has it.
    patterns: of the artefact's files: one that it hasn't written is a
      problem, and what they no longer match is none. None = those of the
      record.
    verify: digest all, whatever their sizes and times.
  """
  present = set(content.files)
  if patterns is not None:
    present = set(find(root, patterns)) | {
      name
      for name in content.files
      if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }
  problems, kept, again = {}, {}, []
  for name in sorted(present):
    stamp = content.files.get(name)
    try:
      state = (root / name).stat()
    except OSError as error:
      problems[name] = f"{root / name}: {_why_not(error)}"
      continue
    if stamp is None:
      problems[name] = f"{root / name}: found, though nothing here wrote it"
    elif state.st_size != stamp.size:
      problems[name] = (
        f"{root / name}: its content isn't what was written"
        f" ({state.st_size:,} bytes found, {stamp.size:,} expected)"
      )
    elif verify or not stamp.is_of(state):
      again.append(name)
    else:
      kept[name] = stamp
  for name in again:
    try:
      found = digests.of_files([root / name])[root / name]
    except OSError as error:
      problems[name] = f"{root / name}: {_why_not(error)}"
      continue
    if found.digest == content.files[name].digest:
      kept[name] = found
    else:
      problems[name] = (
        f"{root / name}: its content isn't what was written (digest"
        f" {found.digest[:12]} found, {content.files[name].digest[:12]}"
        f" expected{_origin(root, name, found.digest)})"
      )
  sizes = tuple(content.files[name].size for name in again)
  return Compared(problems, Content(kept, content.values), sizes)


def compare_values(
  content: Content, values: Mapping[str, Any]
) -> tuple[str, ...]:
  """Returns which parts of shared files aren't as they were written.

  Args:
    content: as the record has it.
    values: the parts as they are, None where there is nothing that is one.
  """
  return tuple(
    f"{name}: its content isn't what was written"
    for name, value in values.items()
    if fingerprints.of_value(value) != content.values.get(name)
  )


def altered(
  paths: paths_lib.Paths, stages: Collection[str] = ()
) -> dict[str, str]:
  """Returns what no longer holds what was written, a line by the file.

  Args:
    paths: of the workdir.
    stages: whose artefacts to look at; empty = all that have a record.
  """
  folder = paths.record("any").parent
  names = stages or sorted(path.stem for path in folder.glob("*.json"))
  lines: dict[str, str] = {}
  for name in names:
    content = read(paths.record(name))
    if content is not None:
      lines |= compare(paths.root, content, None).problems
  return lines


def read_shared(path: pathlib.Path, name: str) -> Any:
  """Returns a part of a JSON file; None where there is no such part."""
  value = storage.read_json_if_whole(path)
  return value.get(name) if isinstance(value, Mapping) else None


def _why_not(error: OSError) -> str:
  return "missing" if isinstance(error, FileNotFoundError) else str(error)


def _origin(root: pathlib.Path, name: str, digest: str) -> str:
  """Returns whose content it is, where another record knows it."""
  for record in sorted((root / "records").glob("*.json")):
    content = read(record)
    for other, stamp in content.files.items() if content else ():
      if stamp.digest == digest and other != name:
        return f": it is that of {other}"
  return ""
