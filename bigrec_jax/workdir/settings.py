"""The configuration that a workdir was made with, kept in it.

`<workdir>/config.json` is the default of every later command on the workdir.
Of each key counts, first to last: a flag of the command; the value of
`--config=FILE` where the file says something else than it did when the workdir
was last written to; what is remembered; the file; the program's default.
"""

import importlib.util
import json
import os
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from bigrec_jax import config as config_lib, errors, home
from bigrec_jax.workdir import (
  fields,
  fingerprints,
  given,
  paths as paths_lib,
  processes,
  records,
  storage,
)

SCHEMA = 1
_DAMAGED = (
  "{}: damaged, or changed by hand: what the workdir was made with isn't known;"
  " --config=<file> (and the flags that it was made with) says it, and a mode"
  " that makes something writes it again"
)
# Of one command or of one machine, and not of what is in the workdir: such a
# key (or all of a section) is never remembered.
PASSING = frozenset(
  {
    "data.catalogue_add",
    "generate.split",
    "mesh",
    "plan",
    "recommend.allow",
    "recommend.deny",
    "recommend.explain",
    "recommend.histories",
    "recommend.history",
    "recommend.output",
    "report.compare",
    "recommend.users",
    "serve",
  }
)
# Where the records of a workdir that remembers nothing say what it was made
# with: (record, place in it, section or key).
_IN_RECORDS = (
  ("base", "arch", "model.arch"),
  ("base", "pretrain", "pretrain"),
  ("base", "prompt", "prompt"),
  ("base", "seed", "seed"),
  ("adapter", "lora", "lora"),
  ("adapter", "train", "train"),
  ("adapter", "prompt", "prompt"),
  ("adapter", "seed", "seed"),
  ("predictions_test", "generate", "generate"),
  ("ground_eval", "ground", "ground"),
)


class DamagedConfig(errors.UserError):
  """What a workdir remembers can't be read; naming it anew helps."""


def remember(
  paths: paths_lib.Paths,
  config: config_lib.Config | Mapping[str, Any],
  name: str,
  file: Mapping[str, Any] | None = None,
) -> None:
  """Keeps the configuration in the workdir, for later commands and readers.

  Args:
    paths: of the workdir.
    config: the whole of it.
    name: of the file that it started from, without folder and suffix.
    file: what that file said; None = what is remembered of it.
  """
  if isinstance(config, config_lib.Config):
    config = config.to_dict()

  def work() -> None:
    kept = file
    if kept is None:
      try:
        kept = (_read(paths) or {}).get("file", {})
      except DamagedConfig:
        kept = {}
    value = {
      "schema": SCHEMA,
      "name": name,
      "folder": os.getcwd(),
      "config": config,
      "file": kept,
    }
    value["seal"] = fingerprints.of_value(_plain(value))
    storage.write_json(paths.config, value)

  processes.on_first(work)


def recall(paths: paths_lib.Paths) -> dict[str, Any] | None:
  """Returns what is remembered, or None where nothing is.

  Keys that are newer than the workdir have their default; keys that are no
  more are left out. Nothing of one command or machine (`PASSING`) is in it
  but what the configuration file said. A relative path that names nothing
  here is taken from the folder that it was given in.

  Returns:
    {"name": of the configuration, "config": nested, all keys, "file": as
    `remember` was given it, flat by dotted key}.

  Raises:
    UserError: config.json is damaged (`DamagedConfig`) or of a newer version.
  """
  kept = _read(paths)
  if kept is None:
    return None
  folder = kept.get("folder") or os.getcwd()
  file = records.flatten(kept["file"])
  own = {
    key: value
    for key, value in records.flatten(kept["config"]).items()
    if not records.covers(PASSING, key)
  }
  known = records.flatten(_defaults())
  values = {
    key: _found_from(
      folder,
      key,
      fields.like(known[key], value, f"{paths.config}: config.{key}"),
    )
    for key, value in (file | own).items()
    if key in known
  }
  return {
    "name": kept["name"],
    "config": nest(known | values),
    "file": {key: _found_from(folder, key, file[key]) for key in file},
  }


def _defaults() -> dict[str, Any]:
  """Returns all keys with their defaults, of configs/common.py.

  By its path: a notebook runs elsewhere, and `configs` there is another's.
  """
  path = home.FOLDER / "configs" / "common.py"
  spec = importlib.util.spec_from_file_location("bigrec_jax_defaults", path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except FileNotFoundError:
    raise errors.UserError(
      f"{path}: not found; bigrec_jax whole, installed or as a checkout,"
      " expected"
    ) from None
  return module.get_config().to_dict()


def merge(
  given: Mapping[str, Any],
  flags: Collection[str],
  file: Mapping[str, Any] | None,
  remembered: Mapping[str, Any],
) -> tuple[dict[str, Any], list[str]]:
  """Returns the values that count and where they differ from the memory.

  Args:
    given: every dotted key's value of the command, flags in it.
    flags: the keys that the command names.
    file: what the command's configuration file says; None = it names none.
    remembered: as `recall` returns it.

  Returns:
    {dotted key: value}, and lines such as "train.seed 0 -> 1 (flag)".
  """
  kept, then = records.flatten(remembered["config"]), remembered["file"]
  values, lines = dict(given), []
  for key in given.keys() & kept.keys():
    passing = records.covers(PASSING, key)
    if key in flags:
      source = "flag"
    elif file is not None and (
      passing or file[key] != then.get(key, file[key])
    ):
      values[key], source = file[key], "file"
    else:
      values[key] = kept[key]
    if values[key] != kept[key] and not passing:
      lines.append(f"{key} {kept[key]!r} -> {values[key]!r} ({source})")
  return values, sorted(lines)


def of_records(paths: paths_lib.Paths) -> dict[str, Any] | None:
  """Returns what the records of a workdir know of its configuration.

  They stand in for config.json in a workdir that was made before there was
  one, as far as they go.

  Returns:
    As `recall`, without a name and with the keys alone that are known; None
    where none is.
  """
  found: dict[str, Any] = {}
  for name, place, key in _IN_RECORDS:
    record = paths.record(name)
    value = (records.read(record) or {}).get(place)
    if value is not None:
      found |= records.flatten(value, f"{key}.")
  settings_file = paths.adapter / "adapter_config.json"
  stored = storage.read_json_if_whole(settings_file)
  if isinstance(stored, dict):
    base = stored.get("base_model_name_or_path")
    if (
      isinstance(base, str)
      and pathlib.Path(base) != paths.base
      and os.path.isdir(base)
    ):
      found["model.path"] = base
  return {"name": None, "config": nest(found), "file": {}} if found else None


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Returns {dotted key: value} as a tree."""
  tree: dict[str, Any] = {}
  for key, value in flat.items():
    *sections, last = key.split(".")
    node = tree
    for section in sections:
      node = node.setdefault(section, {})
    node[last] = value
  return tree


def _found_from(folder: str, key: str, value: Any) -> Any:
  """Returns a path so that it names the same file from here."""
  if not (key in given.INPUTS and isinstance(value, str) and value):
    return value
  if os.path.exists(value):
    return value
  there = os.path.normpath(os.path.join(folder, value))
  return there if os.path.exists(there) else value


def _read(paths: paths_lib.Paths) -> dict[str, Any] | None:
  if not paths.config.exists():
    return None
  kept = storage.read_json_if_whole(paths.config)
  parts = {"name": str, "config": dict, "file": dict}
  if not isinstance(kept, dict) or not all(
    isinstance(kept.get(part), kind) for part, kind in parts.items()
  ):
    raise DamagedConfig(_DAMAGED.format(paths.config))
  if kept.get("schema") != SCHEMA:
    raise errors.UserError(
      f"{paths.config}: schema {kept.get('schema')} found, {SCHEMA} expected:"
      " of another version of this program?"
    )
  seal = kept.pop("seal", None)  # Files of before have none.
  if seal is not None and seal != fingerprints.of_value(_plain(kept)):
    raise DamagedConfig(_DAMAGED.format(paths.config))
  return kept


def _plain(value: Mapping[str, Any]) -> Any:
  """Returns a value as it is read back from JSON."""
  return json.loads(json.dumps(value))
