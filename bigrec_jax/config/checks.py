"""Checks of configuration values; a wrong one is one line.

A number's range stands beside its type, where `build` finds it:

  batch_size: Annotated[int, Range(1, 2**20)]
  cutoffs: Annotated[tuple[int, ...], Range(1, 2**31 - 1)]  # Of each.
"""

import dataclasses
import math
import numbers
from collections.abc import Callable, Iterable
from typing import Annotated, Any, cast, get_args, get_origin, get_type_hints

import ml_collections

from bigrec_jax import errors

# Rows, steps, tokens and items are counted in int32 from here on.
MOST = 2**31 - 1
_LONGEST_LIST = 300  # Characters of the keys that a message lists.
_LONGEST = 80  # Characters of a wrong value that a message shows.


@dataclasses.dataclass(frozen=True)
class Range:
  """Where a number of the configuration lies; NaN lies nowhere.

  Attributes:
    least: the smallest value.
    most: the greatest value.
    below: whether `most` itself is too much.
    also: one more value, with a meaning of its own, such as -1 for all.
  """

  least: float
  most: float
  below: bool = False
  also: int | None = None

  def __contains__(self, value: float) -> bool:
    if value == self.also:
      return True
    if value == self.most and self.below:
      return False
    return self.least <= value <= self.most

  def described(self, kind: str) -> str:
    """Returns it in words, e.g. "a whole number from 1 to 8"."""
    also = "" if self.also is None else f"{self.also} or "
    below = "below " if self.below else ""
    return f"{also}{kind} from {self.least} to {below}{self.most}"


# A count of which none is too few, and one that may be 0.
SOME = Range(1, MOST)
ANY = Range(0, MOST)
# Learning rates: a step of Adam is about as large. Less is 0 in float32.
RATE = Range(1e-30, 1e3)
# Rows of one program.
ROWS = Range(1, 2**20)
FRACTION = Range(0, 1, below=True)  # Of what dropout leaves out.


def choice(key: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises UserError if `value` is none of `choices`."""
  if value not in choices:
    raise errors.UserError(
      f"config.{key}: {value!r} found, one of {', '.join(choices)} expected"
    )


def some(key: str, values: tuple[str, ...]) -> None:
  """Raises UserError if there is no value."""
  if not any(values):
    raise errors.UserError(f"config.{key}: nothing found, a name expected")


def build(cls: type, values: Any, prefix: str) -> Any:
  """Fills a tree of dataclasses; keys and fields must be the same.

  Args:
    cls: dataclass to make.
    values: a ConfigDict of its fields; lists become tuples.
    prefix: of the keys, for messages, e.g. "train.".

  Raises:
    UserError: a key is unknown or missing, or a value is of another type or
      out of its range.
  """
  hints = get_type_hints(cls, include_extras=True)
  if not isinstance(values, ml_collections.ConfigDict):
    key = prefix.removesuffix(".")
    raise errors.UserError(
      f"config.{key}: {shown(values)} found, a section with"
      f" {_listed(hints)} expected"
    )
  given = set(values.keys())
  if unknown := given - set(hints):
    raise errors.UserError(
      f"config.{prefix}{sorted(unknown)[0]}: unknown key, expected one of"
      f" {_listed(hints)}"
    )
  if missing := set(hints) - given:
    raise errors.UserError(f"config.{prefix}{sorted(missing)[0]}: missing")
  fields = {
    name: _field(f"{prefix}{name}", values[name], hint)
    for name, hint in hints.items()
  }
  return cls(**fields)


def _listed(names: Iterable[str]) -> str:
  """Returns names with commas between; the first of very many."""
  text = ", ".join(sorted(names))
  if len(text) <= _LONGEST_LIST:
    return text
  return f"{text[:_LONGEST_LIST].rpartition(',')[0]}, ..."


def _field(key: str, value: Any, hint: Any) -> Any:
  """Returns the value of a key as its type has it."""
  hint, allowed = _parts(hint)
  if dataclasses.is_dataclass(hint):
    return build(cast(type, hint), value, f"{key}.")
  kind = get_origin(hint)
  if kind is None:
    return _single(key, value, hint, allowed)
  if not isinstance(value, (tuple, list)):
    raise errors.UserError(
      f"config.{key}: {shown(value)} found, a tuple expected"
    )
  one = get_args(hint)[0]
  found = tuple(_single(key, item, one, allowed) for item in value)
  if hint == tuple[str, ...]:
    # A flag's "a,b" arrives as one string; ("a", "b") as two.
    found = tuple(p.strip() for part in found for p in part.split(","))
  return found


def _parts(hint: Any) -> tuple[Any, Range | None]:
  """Returns a type without its range, and the range."""
  if get_origin(hint) is not Annotated:
    return hint, None
  kind, allowed = get_args(hint)
  return kind, allowed


def _single(key: str, value: Any, kind: Any, allowed: Range | None) -> Any:
  """Returns one value, refused where it is of another type or no such number.

  Args:
    key: of it, for messages.
    value: as it was given.
    kind: bool, int, float or str.
    allowed: the range of an int or float.
  """
  if kind in (int, float):
    if allowed is None:
      raise TypeError(f"config.{key}: a range beside its type expected")
    return _number(key, value, kind, allowed)
  if not isinstance(value, kind):
    word = {bool: "True or False", str: "a text"}[kind]
    raise errors.UserError(
      f"config.{key}: {shown(value)} found, {word} expected"
    )
  return value


def _number(
  key: str, value: Any, kind: Callable[[Any], float], allowed: Range
) -> float:
  whole = kind is int
  word = "a whole number" if whole else "a number"
  found = None
  # True is 1 to Python, but nobody means that.
  if not isinstance(value, bool) and isinstance(
    value, numbers.Integral if whole else numbers.Real
  ):
    try:
      found = kind(value)
    except OverflowError:  # An integer beyond all floats.
      found = math.inf
  if found is None or found not in allowed:
    raise errors.UserError(
      f"config.{key}: {shown(value)} found, {allowed.described(word)} expected"
    )
  return found


def numbers_in(text: str) -> list[float]:
  """Returns the numbers of "0,0.5,1"; none where something else is there."""
  try:
    return [float(part) for part in text.split(",")]
  except ValueError:
    return []


def shown(value: Any) -> str:
  """Returns a wrong value as a message names it; a long one is cut."""
  try:
    text = " ".join(repr(value).split())
  except ValueError:  # Python writes no integer of thousands of digits.
    return f"an integer of {value.bit_length()} bits"
  if len(text) <= _LONGEST:
    return text
  return f"{text[:_LONGEST]}... ({len(text)} characters)"


def ranges(cls: type, prefix: str = "") -> dict[str, tuple[Any, Range]]:
  """Returns {dotted key: (type, range)} of all numbers of a section.

  Raises:
    TypeError: a number has no range.
  """
  found: dict[str, tuple[Any, Range]] = {}
  for name, hint in get_type_hints(cls, include_extras=True).items():
    kind, allowed = _parts(hint)
    one = get_args(kind)[0] if get_origin(kind) is not None else kind
    if dataclasses.is_dataclass(kind):
      found |= ranges(cast(type, kind), f"{prefix}{name}.")
    elif one in (int, float):
      if allowed is None:
        raise TypeError(f"config.{prefix}{name}: a number without a range")
      found[prefix + name] = kind, allowed
  return found
