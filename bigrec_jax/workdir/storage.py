"""Files that are whole or not there: atomic writes, JSON in and out."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from bigrec_jax import errors


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a temporary sibling that replaces `path` once the block succeeds.

  A kill in between leaves the old file whole, never a half-written new one.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    yield temporary
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def write_json(
  path: str | os.PathLike, value: Any, *, indent: int | None = 2
) -> None:
  """Writes JSON atomically. NaN is refused: it isn't JSON."""
  with atomic_path(path) as temporary:
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike) -> Any:
  """Reads JSON; a missing or damaged file is a UserError that names it."""
  try:
    with open(path, encoding="utf-8") as file:
      return json.load(file)
  except FileNotFoundError:
    raise errors.UserError(f"{path}: not found") from None
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise errors.UserError(f"{path}: not valid JSON: {error}") from None
