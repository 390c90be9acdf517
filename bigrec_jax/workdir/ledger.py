"""Names of files that are given, by content: base, encoder, adapter, scores.

A large file is named by its size and its ends (workdir/fingerprints.py), which
is what records keep. The workdir also remembers the digest of the whole file
that first had a name here; another one with the same name, say with a byte
changed in the middle, gets a name of its own, so that whatever was made from
the first is of other inputs. A file is digested when it is first met by a mode
that writes, and again when its size or time changes.
"""

import functools
import pathlib
from typing import Any

from absl import logging

from bigrec_jax.workdir import (
  digests,
  fingerprints,
  paths as paths_lib,
  processes,
  storage,
)


class Ledger:
  """What a workdir knows of files outside it.

  Attributes:
    keeps: what is found is kept in the workdir.
    verify: digest files whatever their sizes and times.
    notes: files that aren't what they were, a line each.
    digested: sizes of the files that were read from end to end, in bytes.
  """

  def __init__(self, paths: paths_lib.Paths):
    """Reads nothing yet."""
    self._path = paths.ledger
    self.keeps = False
    self.verify = False
    self.notes: list[str] = []
    self.digested: list[int] = []

  @functools.cached_property
  def _files(self) -> dict[str, digests.Stamp]:
    """What each file was, by path."""
    return self._stored[0]

  @functools.cached_property
  def _first(self) -> dict[str, str]:
    """The digest of the first file of a name."""
    return self._stored[1]

  @functools.cached_property
  def _stored(self) -> tuple[dict[str, digests.Stamp], dict[str, str]]:
    # What is damaged is forgotten: it says of no artefact how it was made.
    value = storage.read_json_if_whole(self._path)
    if not isinstance(value, dict):
      return {}, {}
    seal = value.pop("seal", None)
    files, first = digests.parse(value.get("files")), value.get("first")
    if seal != fingerprints.of_value(value) or files is None:
      return {}, {}
    return files, first if isinstance(first, dict) else {}

  def of_folder(self, folder: pathlib.Path, pattern: str) -> str:
    """Returns a fingerprint of the files in `folder` that match `pattern`.

    That of `fingerprints.of_folder`, but where the content of a large file
    isn't that of the first file of its name.

    Args:
      folder: outside the workdir.
      pattern: of file names.
    """
    names: dict[str, list[int | str]] = {}
    changed = False
    for path in sorted(folder.glob(pattern)):
      ends = fingerprints.ends(path)
      digest, is_new = self._digest(path, ends)
      changed |= is_new
      name = fingerprints.of_value(ends)
      first = self._first.get(name, digest)
      is_large = not fingerprints.is_whole(path.stat().st_size)
      if self.keeps and is_large and digest and name not in self._first:
        self._first[name] = digest
      names[path.name] = ends if digest == first else [*ends, str(digest)]
    if changed and self.keeps and processes.is_first():
      self._write()
    return fingerprints.of_value(names)

  def _digest(
    self, path: pathlib.Path, ends: list[int | str]
  ) -> tuple[str | None, bool]:
    """Returns a file's digest, and whether that is news to the workdir.

    None where it isn't known and nothing is there to compare it with.
    """
    key, state = str(paths_lib.real(path)), path.stat()
    known = self._files.get(key)
    name = fingerprints.of_value(ends)
    verify = self.verify and known is not None
    if known is not None and known.is_of(state) and not verify:
      return known.digest, False
    if not fingerprints.is_whole(state.st_size):
      if not (self.keeps or known or name in self._first):
        return None, False
      stamp = digests.of_files([path])[path]
      self.digested.append(stamp.size)
    else:  # Its ends are all of it.
      stamp = digests.Stamp(state.st_size, state.st_mtime_ns, str(ends[1]))
    if known is not None and known.digest != stamp.digest:
      self.notes.append(
        f"{path}: changed since it was read here (digest"
        f" {stamp.digest[:12]} found, {known.digest[:12]} before)"
      )
    self._files[key] = stamp
    return stamp.digest, stamp != known

  def _write(self) -> None:
    value: dict[str, Any] = {
      "files": {path: list(stamp) for path, stamp in self._files.items()},
      "first": self._first,
    }
    value["seal"] = fingerprints.of_value(value)
    try:
      storage.write_json(self._path, value)
    except OSError as error:  # They are digested again another time.
      logging.warning("%s is not kept: %s", self._path, error)
