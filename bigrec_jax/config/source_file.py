"""The Python file behind --config: whatever is wrong with it is one line."""

import inspect
import os
import pathlib
import traceback
import types
from collections.abc import Callable
from typing import Any

import ml_collections

from bigrec_jax import errors


def find(named: str, home: pathlib.Path) -> str:
  """Returns what --config names, of ours wherever the command is given.

  Args:
    named: what --config says: a file, or `file:variant`.
    home: where our own configs/ is.
  """
  path, colon, variant = named.partition(":")
  own = home / path
  if pathlib.PurePath(path).parts[:1] != ("configs",) or os.path.lexists(path):
    return named
  return f"{own}{colon}{variant}" if own.is_file() else named


def check(named: str) -> None:
  """Checks that a configuration file makes a configuration.

  ml_collections keeps some of its errors for later and puts a traceback into
  the text of others.

  Args:
    named: what --config says: a file, or `file:variant`.

  Raises:
    UserError: the file can't be read, run or called, or it returns something
      else; the message names the line where there is one.
  """
  path, colon, variant = named.partition(":")
  content = _content(path)
  module = types.ModuleType("config_config")
  module.__file__ = path
  code = _guarded(path, lambda: compile(content, path, "exec"))
  _guarded(path, lambda: exec(code, module.__dict__))
  get_config = getattr(module, "get_config", None)
  if not callable(get_config):
    raise errors.UserError(
      f"--config={path}: no function get_config found, one that returns an"
      " ml_collections.ConfigDict expected"
    )
  arguments = [variant] if colon else []
  _check_takes(path, get_config, arguments)
  _check_kind(path, _guarded(path, lambda: get_config(*arguments)))


def _content(path: str) -> bytes:
  """Returns the bytes of the file."""
  try:
    if os.path.isfile(path) or not os.path.exists(path) or os.path.isdir(path):
      with open(path, "rb") as file:
        return file.read()
    problem = "a pipe or device found, a Python file expected"
  except FileNotFoundError:
    problem = "no such file"
  except IsADirectoryError:
    problem = "a folder found, a Python file expected"
  except OSError as error:
    problem = error.strerror or str(error)
  except ValueError as error:  # A NUL in the path.
    problem = str(error)
  raise errors.UserError(f"--config={ascii(path)[1:-1]}: {problem}")


def _guarded(path: str, work: Callable[[], Any]) -> Any:
  """Returns what `work` returns; what it raises becomes a line.

  Raises:
    UserError: it raised something, or left the program.
  """
  try:
    return work()
  except (Exception, SystemExit) as error:
    raise errors.UserError(
      f"--config={path}: {_place(path, error)}{_said(error)}"
    ) from None


def _place(path: str, error: BaseException) -> str:
  """Returns the line of the file that an error comes from, if one does."""
  if isinstance(error, SyntaxError) and error.filename == path:
    return f"line {error.lineno}: " if error.lineno else ""
  frames = traceback.extract_tb(error.__traceback__)
  own = [frame.lineno for frame in frames if frame.filename == path]
  return f"line {own[-1]}: " if own else ""


def _said(error: BaseException) -> str:
  if isinstance(error, errors.UserError):
    return str(error)
  text = error.msg if isinstance(error, SyntaxError) else str(error)
  name, text = type(error).__name__, " ".join(text.split())
  return f"{name}: {text}" if text else name


def _check_takes(path: str, get_config: Any, arguments: list[str]) -> None:
  """Raises UserError where a variant is named, or isn't, and may not be."""
  try:
    signature = inspect.signature(get_config)
  except (TypeError, ValueError):
    return  # Nobody knows; calling it will tell.
  try:
    signature.bind(*arguments)
  except TypeError:
    found = f"':{arguments[0]}' found" if arguments else "no ':variant' found"
    raise errors.UserError(
      f"--config={path}: {found}, but the file has get_config{signature}"
    ) from None


def _check_kind(path: str, found: Any) -> None:
  if isinstance(found, ml_collections.FrozenConfigDict) or not isinstance(
    found, ml_collections.ConfigDict
  ):
    kind = type(found).__name__
    hint = "; is its return missing?" if found is None else ""
    raise errors.UserError(
      f"--config={path}: get_config() returned"
      f" {'None' if found is None else kind}, an ml_collections.ConfigDict"
      f" expected{hint}"
    )
