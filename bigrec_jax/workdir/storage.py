"""Files that are whole or not there: atomic writes, JSON in and out."""

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from bigrec_jax import errors
from bigrec_jax.workdir import faults, leftovers


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a temporary sibling that replaces `path` once the block succeeds.

  A kill in between leaves the old file whole, never a half-written new one.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = leftovers.unique(path)
  try:
    with faults.writing(path, temporary):
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
  """Reads a file of one JSON value.

  Raises:
    UserError: it is missing, no file, not JSON (NaN isn't), or damaged.
  """
  try:
    if not (os.path.isfile(path) or os.path.isdir(path)):
      os.stat(path)  # An error where there is nothing.
      # Some of these never end, and others wait for a writer.
      raise errors.UserError(f"{path}: a pipe or device found, a file expected")
    content = pathlib.Path(path).read_bytes()
  except FileNotFoundError:
    raise errors.UserError(f"{path}: not found") from None
  except OSError as error:
    raise errors.UserError(f"{path}: {error.strerror or error}") from None
  except ValueError as error:  # A NUL in the path.
    raise errors.UserError(f"{path}: {error}") from None
  return parse_json(content, str(path))


def read_object(path: str | os.PathLike) -> dict[str, Any]:
  """Reads a file of one JSON object.

  Raises:
    UserError: as `read_json`, or it is a value of another kind.
  """
  value = read_json(path)
  if not isinstance(value, dict):
    raise errors.UserError(
      f"{path}: {type(value).__name__} found, an object expected"
    )
  return value


def read_lines(
  path: str | os.PathLike, *, may_be_cut: bool = False
) -> Iterator[tuple[str, Any]]:
  """Yields (place, value) of a file of JSON lines.

  Args:
    path: of the file.
    may_be_cut: a last line without its end, which a kill leaves, is dropped.

  Raises:
    UserError: it is missing, or a line isn't JSON; the message names the line.
  """
  try:
    with open(path, "rb") as file:
      for number, line in enumerate(file, 1):
        if may_be_cut and not line.endswith(b"\n"):
          return
        place = f"{path}: line {number}"
        yield place, parse_json(line, place)
  except FileNotFoundError:
    raise errors.UserError(f"{path}: not found") from None
  except OSError as error:
    raise errors.UserError(f"{path}: {error.strerror or error}") from None


def read_json_if_whole(path: str | os.PathLike) -> Any:
  """Returns the value of a file that can be made again; None if it's damaged.

  None, too, where there is no such file.
  """
  try:
    return read_json(path)
  except errors.UserError:
    return None


def parse_json(content: str | bytes, where: str) -> Any:
  """Returns the one JSON value that a text, or UTF-8 bytes, holds.

  Python's reader also takes NaN and infinities, which are no JSON and which
  nothing that reads numbers expects; it recurses, so that nesting can end it;
  and it converts no integer of thousands of digits.

  Args:
    content: all of it; text behind the value is refused.
    where: a file, or a place within it, for the message.

  Raises:
    UserError: it is not valid; the message names the line.
  """
  try:
    text = content if isinstance(content, str) else content.decode("utf-8-sig")
    return DECODER.decode(text)
  except RecursionError:
    problem = "nested too deeply"
  except ValueError as error:
    problem = str(error)[:200]
  raise errors.UserError(f"{where}: not valid JSON: {problem}")


def refuse_constant(name: str) -> None:
  """Raises ValueError: what a JSON decoder does with a NaN or an infinity."""
  raise ValueError(f"{name} found, a finite number expected")


def _finite(text: str) -> float:
  """Returns a number; one beyond the largest would become an infinity."""
  value = float(text)
  if math.isinf(value):
    refuse_constant(text[:30])
  return value


# Made once: a raw file has a JSON text on each of its millions of lines.
DECODER = json.JSONDecoder(parse_constant=refuse_constant, parse_float=_finite)
