"""Raw files to the prepared data of a workdir.

Under `<workdir>/data`: the windows of all splits as a TFDS dataset
(tfds_builder), catalogue.jsonl, manifest.json, doctor.json and, for rows with
a text of their own, overrides_<split>.jsonl. All is written to a hidden folder
beside it and renamed at the end: a kill leaves what was there.
"""

import contextlib
import dataclasses
import pathlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrec_jax import errors
from bigrec_jax.config import DataConfig, PromptConfig
from bigrec_jax.data.formats import movielens, registry as formats
from bigrec_jax.data.prepared import (
  attributes,
  catalogue,
  doctor as doctor_lib,
  examples,
  export_json,
  splits,
  told,
  users,
)
from bigrec_jax.data.text import prompts
from bigrec_jax.workdir import (
  faults,
  fingerprints,
  leftovers,
  paths as paths_lib,
  records,
  storage,
)

if TYPE_CHECKING:
  from bigrec_jax.data.text import tokenization

_VERSION = 1  # Of the prepared data; another one is prepared again.
_BLOCK = 65_536
_HASHED_WHOLE = 1 << 30  # Bytes; of larger files the ends and the time count.
_CSV_PATH_KEYS = ("interactions", "items")
_PATH_KEYS = ("raw_dir", "train", "valid", "test", "catalogue")
_OWN_FILES = (
  "bigrec_windows",
  "catalogue.jsonl",
  "doctor.json",
  "manifest.json",
  "overrides_*.jsonl",
  "attributes.jsonl",
  "users.jsonl",
)


def prepare(
  data: DataConfig,
  prompt: PromptConfig,
  paths: paths_lib.Paths,
  tokenizer: "tokenization.Tokenizer | None" = None,
) -> list[str]:
  """Reads the raw data and replaces the prepared data of a workdir.

  Args:
    data: the section of the configuration.
    prompt: what rows with a text of their own are compared with.
    paths: the workdir.
    tokenizer: the model's, where it is known; says what it makes of titles.

  Returns:
    What to tell the user, a line each.

  Raises:
    UserError: a raw file is missing or malformed, a split would be empty, or
      the data folder holds files of somebody else.
  """
  _refuse_foreign_files(paths)
  _finish_swap(paths)
  start = time.monotonic()
  stamp = _stamp(data, prompt)
  doctor = doctor_lib.Doctor(data.format)
  text = prompts.Prompt.from_config(prompt)
  content = formats.read(data, text, doctor)
  _examine(content, data, doctor)
  if tokenizer is not None:
    doctor_lib.examine_tokens(doctor, list(content.titles.values()), tokenizer)
  with _staging(paths) as staging:
    exported = []
    if data.export_json:
      exported = _export(staging.root, content, data, text, doctor)
    manifest = _write(staging, content, data, prompt, stamp, exported, doctor)
    _swap(staging, paths, exported)
  seconds = time.monotonic() - start
  return [
    *doctor_lib.summary(doctor.to_dict()),
    *told.splits(content.windows),
    *_told(manifest, paths, exported, seconds),
  ]


def manifest_fingerprint(data: DataConfig, prompt: PromptConfig) -> str:
  """Names the raw files and all options that the prepared data depend on.

  Raises:
    UserError: a raw file is missing.
  """
  return fingerprints.of_value(_stamp(data, prompt))


def differences(
  data: DataConfig, prompt: PromptConfig, paths: paths_lib.Paths
) -> list[str]:
  """Returns why the prepared data aren't those of this configuration.

  Raw files that are gone do not matter as long as the configuration names the
  same paths as when the data were prepared.

  Raises:
    UserError: a raw file is missing and its path is another one than before.
  """
  if not paths.manifest.exists() or not paths.catalogue.exists():
    return [records.NOT_MADE]
  manifest = storage.read_json_if_whole(paths.manifest)
  if not isinstance(manifest, dict):
    return [records.NOT_MADE]
  if data.export_json and not _is_exported(manifest, prompt, paths):
    return ["data.export_json: False -> True"]
  try:
    stamp = _stamp(data, prompt)
  except errors.UserError:
    found = manifest.get("options"), manifest.get("paths")
    if found != (_options(data, prompt), _named_paths(data)):
      raise
    return []
  if manifest.get("fingerprint") == fingerprints.of_value(stamp):
    return []
  old = {key: manifest.get(key) for key in stamp}
  return records.changes(old, stamp) or ["data: of an older version"]


def is_current(
  data: DataConfig, prompt: PromptConfig, paths: paths_lib.Paths
) -> bool:
  """Returns whether the prepared data are those of this configuration.

  Raises:
    UserError: as `differences`.
  """
  return not differences(data, prompt, paths)


def _is_exported(
  manifest: Mapping[str, Any], prompt: PromptConfig, paths: paths_lib.Paths
) -> bool:
  export = manifest.get("export")
  if not isinstance(export, dict):
    return False
  files = export.get("files", [])
  return (
    isinstance(files, list)
    and bool(files)
    and export.get("prompt") == [prompt.instruction, prompt.history]
    and all((paths.root / str(name)).exists() for name in files)
  )


def _named_paths(data: DataConfig) -> dict[str, str]:
  keys: tuple[str, ...] = _PATH_KEYS
  if data.format == "csv":
    keys = (*keys, *_CSV_PATH_KEYS)
  return {key: getattr(data, key) for key in keys}


def _options(data: DataConfig, prompt: PromptConfig) -> dict[str, Any]:
  options = {
    "version": _VERSION,
    "format": data.format,
    "max_history": data.max_history,
    "encoding": data.encoding,
  }
  if data.format == "bigrec":  # Decides which rows keep their own text.
    options["prompt"] = [prompt.instruction, prompt.history]
  if data.format == "csv":
    options["columns"] = dataclasses.asdict(data.columns)
    options["reader"] = "tables"  # Once it had CSV alone.
  if data.windows != "auto":
    options["windows"] = data.windows
  if data.format == "synthetic":
    options["synthetic"] = dataclasses.asdict(data.synthetic)
  return options


def _stamp(data: DataConfig, prompt: PromptConfig) -> dict[str, Any]:
  """Returns options and raw files, by content."""
  files = formats.files(data).items()
  return {
    "options": _options(data, prompt),
    "files": {role: _file_fingerprint(path) for role, path in files},
  }


def _file_fingerprint(path: pathlib.Path) -> str:
  stat = path.stat()
  if stat.st_size <= _HASHED_WHOLE:
    return fingerprints.of_file(path)
  with open(path, "rb") as file:
    ends = file.read(1 << 20)
    file.seek(-(1 << 20), 2)
    ends += file.read()
  return fingerprints.of_value(
    [stat.st_size, stat.st_mtime_ns, fingerprints.of_value(ends)]
  )


def _examine(
  content: formats.Content, data: DataConfig, doctor: doctor_lib.Doctor
) -> None:
  doctor_lib.examine_titles(doctor, list(content.titles.values()))
  never = int(np.sum(content.popularity == 0))
  doctor.found("items that are never in the train part", never)
  times = {}
  for split, windows in content.windows.items():
    doctor_lib.examine_split(
      doctor, split, _blocks(windows), content.popularity
    )
    times[split] = windows.timeline.timestamp[windows.targets]
  if data.format != "sequences" and all(part.any() for part in times.values()):
    doctor_lib.examine_times(doctor, times)


def _blocks(windows: splits.Windows) -> Iterator[dict[str, np.ndarray]]:
  for start in range(0, len(windows), _BLOCK):
    yield windows.columns(slice(start, start + _BLOCK))


def _export(
  directory: pathlib.Path,
  content: formats.Content,
  data: DataConfig,
  prompt: prompts.Prompt,
  doctor: doctor_lib.Doctor,
) -> list[str]:
  titles = targets = list(content.titles.values())
  if data.format == "amazon":
    targets = export_json.published_targets(titles)
  elif data.format == "movielens" and data.encoding == "auto":
    path = movielens.files(data)["titles"]
    if movielens.is_utf8_dat(path):
      titles = targets = export_json.published_movie_titles(titles)
      doctor.note(
        "the exported JSON has the titles as the published scripts read"
        " movies.dat, as ISO-8859-1; data.encoding=utf-8 writes them right"
      )
  return export_json.write(
    directory,
    content.windows,
    titles,
    targets,
    content.overrides,
    prompt,
    doctor,
  )


def _write(
  paths: paths_lib.Paths,
  content: formats.Content,
  data: DataConfig,
  prompt: PromptConfig,
  stamp: Mapping[str, Any],
  exported: Sequence[str],
  doctor: doctor_lib.Doctor,
) -> dict[str, Any]:
  # TFDS takes a second to import.
  from bigrec_jax.data.prepared import tfds_builder

  items = catalogue.Catalogue(
    tuple(content.titles),
    tuple(content.titles.values()),
    content.popularity.astype(np.int64),
  )
  catalogue.save(items, paths)
  if content.attributes:
    own = (content.attributes.get(key, "{}") for key in content.titles)
    attributes.write(paths.attributes, own)
  if content.users is not None:
    names, line = content.users
    users.write(paths.users, names, line)
  # TFDS knows no split without examples; the manifest says that it is empty.
  windows = {s: part for s, part in content.windows.items() if len(part)}
  dataset = tfds_builder.write(paths.data, windows, data.max_history)
  for split, texts in content.overrides.items():
    examples.write_overrides(paths, split, texts)
  storage.write_json(paths.doctor, doctor.to_dict())
  manifest = {
    "fingerprint": fingerprints.of_value(stamp),
    **stamp,
    "paths": _named_paths(data),
    "dataset": str(dataset.relative_to(paths.data)),
    "catalogue": items.fingerprint,
    "ratings": all(
      windows.timeline.rating is not None
      for windows in content.windows.values()
    ),
    "counts": {"items": len(items), **content.counts},
    "splits": {
      split: {
        "num_examples": len(windows),
        "num_overrides": len(content.overrides.get(split, {})),
      }
      for split, windows in content.windows.items()
    },
    "instructions": [list(pair) for pair in content.instructions[:10]],
    "export": {
      "files": list(exported),
      "prompt": [prompt.instruction, prompt.history],
    }
    if exported
    else None,
  }
  storage.write_json(paths.manifest, manifest)
  return manifest


def _told(
  manifest: Mapping[str, Any],
  paths: paths_lib.Paths,
  exported: Sequence[str],
  seconds: float,
) -> list[str]:
  counts = ", ".join(
    f"{split} {part['num_examples']:,}"
    for split, part in manifest["splits"].items()
  )
  lines = [
    f"{manifest['counts']['items']:,} items; examples: {counts}",
    f"wrote {paths.data} in {seconds:.1f} s",
  ]
  if exported:
    lines.append(f"exported {', '.join(exported)} to {paths.root}")
  return lines


def _refuse_foreign_files(paths: paths_lib.Paths) -> None:
  """The folder is replaced as a whole, so it must be ours as a whole."""
  if not paths.data.exists():
    return
  for entry in sorted(paths.data.iterdir()):
    if not any(entry.match(own) for own in _OWN_FILES):
      raise errors.UserError(
        f"{paths.data}: {entry.name} found, only what --mode=prepare writes"
        " expected; choose another --workdir or move it away"
      )


@contextlib.contextmanager
def _staging(paths: paths_lib.Paths) -> Iterator[paths_lib.Paths]:
  """Yields an empty hidden workdir inside the workdir, removed at the end."""
  staging = paths_lib.Paths(leftovers.unique(paths.root / "prepare"))
  # Of a killed run of a version that had no other name for it.
  shutil.rmtree(paths.root / ".prepare", ignore_errors=True)
  staging.data.mkdir(parents=True)
  try:
    with faults.writing(paths.data, staging.root):
      yield staging
  finally:
    shutil.rmtree(staging.root, ignore_errors=True)


def _old(paths: paths_lib.Paths) -> pathlib.Path:
  return paths.root / ".data.old"


def _finish_swap(paths: paths_lib.Paths) -> None:
  """Puts the old data back where a kill hit between the two renames."""
  old = _old(paths)
  if not old.exists():
    return
  if paths.data.exists():
    shutil.rmtree(old)
  else:
    old.rename(paths.data)


def _swap(
  staging: paths_lib.Paths, paths: paths_lib.Paths, exported: Sequence[str]
) -> None:
  """Puts the new data in place; the manifest in it comes last."""
  for name in exported:
    (staging.root / name).replace(paths.root / name)
  if paths.data.exists():
    paths.data.rename(_old(paths))
  staging.data.rename(paths.data)
  shutil.rmtree(_old(paths), ignore_errors=True)
