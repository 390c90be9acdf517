"""Fields of JSON objects read with checks: a wrong one is one line."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from bigrec_jax import errors

T = TypeVar("T")
Object = Mapping[str, Any]

# The version of every file of typed rows. Files of before it have no `schema`.
SCHEMA = 1


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
      found = ", ".join(self._value) or "nothing"
      place = self.where.removesuffix(":")
      raise errors.UserError(f"{place}: {found} found, {key} expected too")
    return read(self._value[key], inside(self.where, key))

  def optional(self, key: str, read: Callable[[Any, str], T], absent: T) -> T:
    """Returns a field as `get` does, or `absent` where it is missing."""
    return self.get(key, read) if key in self._value else absent


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
  return f"{where} {key}" if where.endswith(":") else f"{where}.{key}"


def refuse(where: str, found: Any, expected: str) -> errors.UserError:
  """Returns the error that names a place, what is there and what should be."""
  shown = repr(found)
  shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
  place = where.removesuffix(":")
  return errors.UserError(f"{place}: {shown} found, {expected} expected")


def text(value: Any, where: str) -> str:
  """Returns a string."""
  if not isinstance(value, str):
    raise refuse(where, value, "a text")
  return value


def whole(value: Any, where: str) -> int:
  """Returns a whole number."""
  if isinstance(value, bool) or not isinstance(value, int):
    raise refuse(where, value, "a whole number")
  return value


def number(value: Any, where: str) -> float:
  """Returns a finite number as it is; a whole one stays whole."""
  if isinstance(value, bool) or not isinstance(value, (int, float)):
    raise refuse(where, value, "a number")
  try:
    finite = math.isfinite(value)
  except OverflowError:  # A whole number beyond all floats.
    finite = False
  if not finite:
    raise refuse(where, value, "a finite number")
  return value


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
