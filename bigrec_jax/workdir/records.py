"""What each artefact of a workdir was made from, and whether it still holds.

An artefact's record is written last, once the artefact is whole. A kill before
that leaves no record, so the artefact is made again; so does half a record.
Beside what the artefact was made from, a record has what its files hold
(workdir/contents.py), under one key that is no input's.
"""

import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from bigrec_jax.workdir import processes, storage

NOT_MADE = "not made yet"
_CONTENT = "digests"  # Of no input's name.


def read(record: pathlib.Path) -> dict[str, Any] | None:
  """Returns what an artefact was made from; None where no record is whole."""
  stored = storage.read_json_if_whole(record)
  if not isinstance(stored, dict):
    return None
  stored.pop(_CONTENT, None)
  return stored


def stored_content(record: pathlib.Path) -> dict[str, Any] | None:
  """Returns what a record says of files, None where it says nothing."""
  stored = storage.read_json_if_whole(record)
  content = stored.get(_CONTENT) if isinstance(stored, dict) else None
  return content if isinstance(content, dict) else None


def differences(
  record: pathlib.Path, made_from: Mapping[str, Any]
) -> list[str]:
  """Returns what differs from the record, e.g. "train.seed: 0 -> 1".

  No record, or half of one, is one difference, `NOT_MADE`.
  """
  before = read(record)
  return [NOT_MADE] if before is None else changes(before, made_from)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
  """Returns in which dotted keys two nested values differ, a line each."""
  old, new = flatten(before), flatten(after)
  keys = sorted(old.keys() | new.keys())
  return [
    f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}"
    for key in keys
    if old.get(key) != new.get(key)
  ]


def rewrite(
  record: pathlib.Path,
  made_from: Mapping[str, Any],
  content: Mapping[str, Any] | None,
) -> None:
  """Writes a record; to be called in the first process alone.

  Args:
    record: its file.
    made_from: inputs by name.
    content: what the artefact's files hold; None = the record doesn't say.
  """
  own = {} if content is None else {_CONTENT: content}
  storage.write_json(record, {**made_from, **own})


def drop_record(record: pathlib.Path) -> None:
  """Says that the artefact no longer holds, before it is made again."""
  processes.on_first(lambda: record.unlink(missing_ok=True))


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
  """Returns {dotted key: leaf}; sequences are leaves, as tuples."""
  if not isinstance(value, Mapping):
    leaf = tuple(value) if isinstance(value, (list, tuple)) else value
    return {prefix.rstrip("."): leaf}
  flat: dict[str, Any] = {}
  for key, inner in value.items():
    flat |= flatten(inner, f"{prefix}{key}.")
  return flat


def covers(keys: Collection[str], key: str) -> bool:
  """Returns whether a dotted key, or a section that it is in, is in `keys`."""
  parts = key.split(".")
  return any(".".join(parts[:n]) in keys for n in range(1, len(parts) + 1))
