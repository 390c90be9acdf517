"""Paths that a user names, checked at the door: files, folders, outputs.

What is wrong with one is said in a line that names the key: that nothing is
there, that a folder is where a file belongs or the reverse, that a link leads
nowhere, that the name can't be one.
"""

import errno
import os
import pathlib
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from bigrec_jax import errors
from bigrec_jax.workdir import paths as paths_lib

# Keys whose values name files or folders; relative ones are of the folder
# that they were given in.
INPUTS = frozenset(
  {
    "data.catalogue",
    "data.catalogue_add",
    "data.interactions",
    "data.items",
    "data.raw_dir",
    "data.test",
    "data.train",
    "data.valid",
    "embed.model.path",
    "ground.cf_scores.test",
    "ground.cf_scores.valid",
    "ground.item_groups",
    "ground.popularity",
    "ground.predictions.test",
    "ground.predictions.valid",
    "model.adapter",
    "model.path",
    "model.tokenizer",
    "recommend.allow",
    "recommend.deny",
    "task.auxiliary.attributes",
    "task.chat.model",
    "task.chat.profile",
    "task.fairness.names",
    "task.fairness.values",
  }
)
# Of one command, so never remembered.
_PASSING = frozenset({"recommend.histories", "recommend.output"})
# What a temporary name adds to a file's own, at most.
_ROOM = 24


def file(key: str, value: str) -> pathlib.Path:
  """Returns the file that a configuration key names.

  Raises:
    UserError: the key is empty, or names no file.
  """
  if not value:
    raise errors.UserError(f"config.{key}: empty, the path of a file expected")
  if _of_kind(f"config.{key}", value, "a file") is None:
    raise errors.UserError(f"config.{key}: {value}: no such file")
  return pathlib.Path(value)


def folder(key: str, value: str, what: str = "a folder") -> pathlib.Path:
  """Returns the folder that a configuration key names.

  Args:
    key: of the configuration.
    value: of the key.
    what: is expected, for messages.

  Raises:
    UserError: the key is empty, or names no folder.
  """
  if not value:
    raise errors.UserError(f"config.{key}: empty, {what} expected")
  if _of_kind(f"config.{key}", value, "a folder", what) is None:
    raise errors.UserError(f"config.{key}: {value}: no such folder")
  return pathlib.Path(value)


def check_texts(values: Mapping[str, Any]) -> None:
  """Checks that texts can be written down, and that paths mean themselves.

  Args:
    values: of the configuration, by dotted key.

  Raises:
    UserError: a text holds a NUL or half a character, a path begins with a
      tilde, which shells leave as it is behind an equals sign, or it leads to
      a pipe or device.
  """
  for key, value in values.items():
    parts = value if isinstance(value, (list, tuple)) else [value]
    for part in parts:
      if isinstance(part, str):
        check_text(f"config.{key}", part)
    if key in INPUTS | _PASSING and isinstance(value, str) and value:
      check_tilde(f"config.{key}", value)
      check_ends(f"config.{key}", value)


def check_text(what: str, value: str) -> None:
  """Raises UserError for a text that no file could hold."""
  for bad, name in (("\0", "a NUL"), (None, "bytes that aren't UTF-8")):
    if bad in value if bad else not _is_text(value):
      raise errors.UserError(f"{what}: {value!r}: {name} found, text expected")


def check_tilde(what: str, value: str) -> None:
  """Raises UserError for a path that begins with a tilde, and says whose."""
  first = pathlib.PurePath(value).parts[:1]
  if not value.startswith("~") or os.path.lexists(first[0]):
    return
  meant = os.path.expanduser(value)
  hint = "" if meant == value else f"; did you mean {meant}?"
  raise errors.UserError(
    f"{what}: {value}: ~ found, which isn't expanded{hint}"
  )


def check_ends(what: str, value: str) -> None:
  """Raises UserError for a pipe or device: who reads one may never end."""
  found = state(what, value)
  if found is not None and kind(found) not in ("a file", "a folder"):
    raise errors.UserError(
      f"{what}: {value}: {kind(found)} found, a file expected"
    )


def check_workdir(value: str) -> None:
  """Raises UserError where --workdir names something that is no folder."""
  check_text("--workdir", value)
  check_tilde("--workdir", value)
  _of_kind("--workdir", value, "a folder")


def check_folder_to_write(what: str, path: pathlib.Path) -> None:
  """Checks, before any work, that a folder is there or can be made.

  Args:
    what: the flag or key, for messages.
    path: of the folder.

  Raises:
    UserError: something else is there, or nothing can be written there.
  """
  _of_kind(what, path, "a folder")
  _probe(what, path, path / ".bigrec_jax")


def check_file_to_write(what: str, path: pathlib.Path) -> None:
  """Checks, before any work, that a file can be made or replaced.

  Args:
    what: the flag or key, for messages.
    path: of the file; there may be one already.

  Raises:
    UserError: something else is there, or nothing can be written there.
  """
  _of_kind(what, path, "a file")
  _probe(what, path, path)


def check_places(paths: paths_lib.Paths) -> None:
  """Checks that no folder is where a workdir's files belong, nor the reverse.

  Raises:
    UserError: one is; the message names it.
  """
  folders = (
    *(paths.data, paths.base, paths.adapter, paths.checkpoints),
    *(paths.embeddings, paths.metrics, paths.ranks, paths.export),
    *(paths.root / "records", paths.root / "predictions", paths.root / "cf"),
  )
  for path in folders:
    _of_kind("workdir", path, "a folder")
  for path in (*_files(paths), *_entries(paths.root / "records")):
    _of_kind("workdir", path, "a file")


def _files(paths: paths_lib.Paths) -> Iterator[pathlib.Path]:
  yield from (paths.config, paths.chosen, paths.plan, paths.recommendations)
  yield from (paths.catalogue, paths.manifest, paths.doctor)
  yield from (paths.train_metrics, paths.pretrain_metrics, paths.ground_eval)
  yield from (paths.report, paths.ground_examples, paths.contamination)
  for split in ("valid", "test"):
    yield paths.predictions(split)
    yield paths.ranks / f"{split}.npz"


def _entries(directory: pathlib.Path) -> list[pathlib.Path]:
  return sorted(directory.iterdir()) if directory.is_dir() else []


def _is_text(value: str) -> bool:
  try:
    value.encode("utf-8")
  except UnicodeEncodeError:
    return False
  return True


def _of_kind(
  what: str, path: str | os.PathLike[str], wanted: str, expected: str = ""
) -> os.stat_result | None:
  """Returns what is there, None for nothing.

  Args:
    what: the flag or key, for messages.
    path: to look at.
    wanted: "a file" or "a folder".
    expected: for messages, where it is more than that.

  Raises:
    UserError: something else is there, or the path can't be followed.
  """
  found = state(what, path)
  if found is not None and kind(found) != wanted:
    raise errors.UserError(
      f"{what}: {path}: {kind(found)} found, {expected or wanted} expected"
    )
  return found


def state(what: str, path: str | os.PathLike[str]) -> os.stat_result | None:
  """Returns what is there, None for nothing.

  Raises:
    UserError: the path can't be followed, or leads to a link that is broken.
  """
  check_text(what, os.fspath(path))
  try:
    return os.stat(path)
  except FileNotFoundError:
    if os.path.islink(path):
      raise errors.UserError(
        f"{what}: {path}: a link to {os.readlink(os.fspath(path))} found, which"
        " is not there"
      ) from None
    return None
  except NotADirectoryError:
    parents = pathlib.Path(path).parents
    first = next((p for p in parents if os.path.isfile(p)), path)
    raise errors.UserError(
      f"{what}: {path}: {first} is a file, a folder expected there"
    ) from None
  except OSError as error:
    raise errors.UserError(f"{what}: {path}: {_said(error)}") from None


def _said(error: OSError) -> str:
  if error.errno == errno.ELOOP:
    return "a link that leads back to itself found"
  return str(error.strerror)


def kind(found: os.stat_result) -> str:
  """Returns what is there, in words."""
  mode = found.st_mode
  if stat.S_ISDIR(mode):
    return "a folder"
  return "a file" if stat.S_ISREG(mode) else "a pipe, socket or device"


def _probe(what: str, path: pathlib.Path, name: pathlib.Path) -> None:
  """Makes and removes an empty file where `name` is going to be written.

  Its parents need not be there: the nearest that is has to take a new entry.
  """
  parent = name.parent
  while not parent.exists() and parent != parent.parent:
    state(what, parent)  # Names what can't be followed.
    parent = parent.parent
  own = f".{name.name}.{os.getpid()}.{'probe':x<{_ROOM}}"
  try:
    with open(parent / own, "x"):
      pass
    os.unlink(parent / own)
  except OSError as error:
    raise errors.UserError(
      f"{what}: {path}: nothing can be written"
      f" there ({parent}: {error.strerror})"
    ) from None
