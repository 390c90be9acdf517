"""What each artefact of a workdir was made from, and whether it still holds.

An artefact's record is written last, once the artefact is whole. A kill before
that leaves no record, so the artefact is made again.
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from bigrec_jax.workdir import processes, storage


def is_current(
  record: pathlib.Path, made_from: Mapping[str, Any], *files: pathlib.Path
) -> bool:
  """Returns whether all `files` are there and were made from `made_from`."""
  return processes.agree(
    lambda: (
      all(f.exists() for f in files) and not differences(record, made_from)
    )
  )


def differences(
  record: pathlib.Path, made_from: Mapping[str, Any]
) -> list[str]:
  """Returns what differs from the record, e.g. "train.seed: 0 -> 1".

  No record at all is one difference.
  """
  if not record.exists():
    return ["not made yet"]
  old = flatten(storage.read_json(record))
  # Through JSON, so that tuples and lists compare equal.
  new = flatten(made_from)
  keys = sorted(old.keys() | new.keys())
  return [
    f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}"
    for key in keys
    if old.get(key) != new.get(key)
  ]


def write_record(record: pathlib.Path, made_from: Mapping[str, Any]) -> None:
  """Says on disk that the artefact is whole and what it was made from."""
  processes.on_first(lambda: storage.write_json(record, made_from))


def drop_record(record: pathlib.Path) -> None:
  """Says that the artefact no longer holds, before it is made again."""
  processes.on_first(lambda: record.unlink(missing_ok=True))


def drop_and_tell(
  record: pathlib.Path,
  made_from: Mapping[str, Any],
  tell: Callable[[str], object],
) -> None:
  """Drops the record; tells each way in which it differs from `made_from`."""

  def work() -> None:
    for line in differences(record, made_from):
      tell(line)
    record.unlink(missing_ok=True)

  processes.on_first(work)


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
  """Returns {dotted key: leaf}; sequences are leaves, as tuples."""
  if not isinstance(value, Mapping):
    leaf = tuple(value) if isinstance(value, (list, tuple)) else value
    return {prefix.rstrip("."): leaf}
  flat: dict[str, Any] = {}
  for key, inner in value.items():
    flat |= flatten(inner, f"{prefix}{key}.")
  return flat
