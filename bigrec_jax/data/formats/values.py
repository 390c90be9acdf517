"""Times and ratings of raw files, of which only sane ones count.

A time is whole seconds, or whatever whole unit the file has, within 62 bits.
Those before 1970 or after 9999 are read, and told (interactions.py). A rating
is a finite number.
"""

import math
from collections.abc import Sequence
from typing import Any

_MOST = 1 << 62  # Nanoseconds reach it in 2116.
_LARGEST_RATING = 1e9


def seconds(value: Any) -> int | None:
  """Returns a time; None for what is none."""
  try:
    found = int(value)
  except (TypeError, ValueError, OverflowError):
    return None
  # Python takes 1_000 for a number, no other program does.
  if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
    return None
  return found if -_MOST <= found <= _MOST else None


def rating(value: Any) -> float:
  """Returns a rating; NaN for what is no finite number."""
  try:
    found = float(value)
  except (TypeError, ValueError, OverflowError):
    return math.nan
  if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
    return math.nan
  return found if abs(found) <= _LARGEST_RATING else math.nan


def shown(value: Any) -> str:
  """Returns a value for a message, which has one line."""
  text = repr(value[:80] if isinstance(value, str) else value)
  return text if len(text) <= 80 else f"{text[:77]}..."


def listed(names: Sequence[str]) -> str:
  """Returns names, of a header say, for a message."""
  text = ", ".join(names)
  return text if len(text) <= 200 else f"{text[:197]}..."
