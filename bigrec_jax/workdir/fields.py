"""Fields of JSON objects read with checks: a wrong one is one line."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from bigrec_jax import errors

T = TypeVar("T")
Object = Mapping[str, Any]

# The version of every file of typed rows. Files of before it have no `schema`.
SCHEMA = 1
_MOST_KEYS = 12  # Named in a message.
_LARGEST = (1 << 63) - 1  # numpy's and every index's.


class Fields:
  """One JSON object and where it is, for messages.

  Attributes:
    where: "<file>:", or a place within it, "<file>: results[3].ci95".
  """

  def __init__(self, value: Any, where: str):
    """Takes an object.

    Raises:
      UserError: it is something else.
    """
    self._value = of_object(value, where)
    self.where = where

  def __contains__(self, key: str) -> bool:
    return key in self._value

  def __iter__(self) -> Iterator[str]:
    return iter(self._value)

  def get(self, key: str, read: Callable[[Any, str], T]) -> T:
    """Returns a field as `read(value, where)` makes it.

    Raises:
      UserError: it is missing, or `read` refuses it.
    """
    if key not in self._value:
      names = [_short(name) for name in list(self._value)[:_MOST_KEYS]]
      found = ", ".join(names) or "nothing"
      place = self.where.removesuffix(":")
      raise errors.UserError(f"{place}: {found} found, {key} expected too")
    return read(self._value[key], inside(self.where, key))

  def optional(self, key: str, read: Callable[[Any, str], T], absent: T) -> T:
    """Returns a field as `get` does, or `absent` where it is missing."""
    return self.get(key, read) if key in self._value else absent

  def check(self, read: Callable[[Any, str], object], *keys: str) -> None:
    """Raises UserError where `read` refuses a field; any may be missing."""
    for key in keys:
      if key in self._value:
        self.get(key, read)


def check_schema(file: Fields) -> None:
  """Raises UserError for a file of a later version than this code reads."""
  found = file.optional("schema", whole, SCHEMA)
  if found != SCHEMA:
    raise errors.UserError(
      f"{file.where} schema {found} found, {SCHEMA} expected; another version"
      " of bigrec_jax wrote it"
    )


def inside(where: str, key: str) -> str:
  """Returns the place of a field."""
  key = _short(key)
  key = key if len(key) <= 100 else f"{key[:97]}..."
  return f"{where} {key}" if where.endswith(":") else f"{where}.{key}"


def refuse(where: str, found: Any, expected: str) -> errors.UserError:
  """Returns the error that names a place, what is there and what should be."""
  try:
    shown = repr(found)
  except (ValueError, RecursionError):  # An integer of thousands of digits.
    shown = type(found).__name__
  shown = _short(shown)
  place = where.removesuffix(":")
  return errors.UserError(f"{place}: {shown} found, {expected} expected")


def _short(text: str) -> str:
  return text if len(text) <= 60 else f"{text[:57]}..."


def text(value: Any, where: str) -> str:
  """Returns a string."""
  if not isinstance(value, str):
    raise refuse(where, value, "a text")
  return value


def whole(value: Any, where: str) -> int:
  """Returns a whole number."""
  if isinstance(value, bool) or not isinstance(value, int):
    raise refuse(where, value, "a whole number")
  if not -_LARGEST <= value <= _LARGEST:
    raise refuse(where, value, "a whole number of 64 bits")
  return value


def count(value: Any, where: str) -> int:
  """Returns a whole number of at least 0."""
  if whole(value, where) < 0:
    raise refuse(where, value, "at least 0")
  return value


def flag(value: Any, where: str) -> bool:
  """Returns true or false."""
  if not isinstance(value, bool):
    raise refuse(where, value, "true or false")
  return value


def number(value: Any, where: str) -> float:
  """Returns a finite number as it is; a whole one stays whole."""
  if isinstance(value, bool) or not isinstance(value, (int, float)):
    raise refuse(where, value, "a number")
  if isinstance(value, int):
    whole(value, where)
  elif not math.isfinite(value):
    raise refuse(where, value, "a finite number")
  return value


def like(default: Any, value: Any, where: str) -> Any:
  """Returns a value of the kind of another one, as a configuration has them.

  Args:
    default: a truth value, number, text, or a sequence of one of them.
    value: of JSON, in which sequences are lists and 1.0 may be 1.
    where: its place, for messages.

  Raises:
    UserError: it is of another kind.
  """
  if isinstance(default, bool):
    return flag(value, where)
  if isinstance(default, int):
    return whole(value, where)
  if isinstance(default, float):
    return number(value, where)
  if isinstance(default, str):
    return text(value, where)
  if not isinstance(default, (tuple, list)):
    return value
  parts = sequence(lambda part, _: part)(value, where)
  if not default:
    return parts
  return tuple(like(default[0], part, where) for part in parts)


def interval(value: Any, where: str) -> tuple[float, float]:
  """Returns (low, high)."""
  ends = sequence(number)(value, where)
  if len(ends) != 2 or ends[0] > ends[1]:
    raise refuse(where, value, "[low, high]")
  return ends[0], ends[1]


def of_object(value: Any, where: str) -> Object:
  """Returns an object as it is."""
  if not isinstance(value, Mapping):
    raise refuse(where, value, "an object")
  return value


def sequence(
  read: Callable[[Any, str], T],
) -> Callable[[Any, str], tuple[T, ...]]:
  """Returns a reader of lists of what `read` reads."""

  def reader(value: Any, where: str) -> tuple[T, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
      raise refuse(where, value, "a list")
    return tuple(read(part, f"{where}[{n}]") for n, part in enumerate(value))

  return reader


def mapping(
  read: Callable[[Any, str], T],
) -> Callable[[Any, str], dict[str, T]]:
  """Returns a reader of objects whose values `read` reads."""

  def reader(value: Any, where: str) -> dict[str, T]:
    return {
      key: read(part, inside(where, key))
      for key, part in of_object(value, where).items()
    }

  return reader
