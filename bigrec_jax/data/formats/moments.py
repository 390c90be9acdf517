"""Times of tables: epochs of any unit, floats, dates; nothing is rounded away.

Numbers keep the unit that their file has. Dates are seconds, in UTC where
they name no zone. Where one has a fraction, all of the file are millionths.
"""

import array
import datetime
from typing import Any

import numpy as np

from bigrec_jax.data.formats import values

MILLION = 1_000_000
_LARGEST = (1 << 62) // MILLION  # Of which millionths can be counted.
# From which on numbers are of a smaller unit: seconds of the year 5138.
_UNITS = (
  (10**17, "nanoseconds", 10**9),
  (10**14, "microseconds", 10**6),
  (10**11, "milliseconds", 10**3),
  (10**8, "seconds", 1),  # 1973; below that they may count anything.
)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
# Goodreads; MovieLens-100K's items.
_FORMATS = ("%a %b %d %H:%M:%S %z %Y", "%d-%b-%Y", "%m/%d/%Y", "%d.%m.%Y")


class Clock:
  """Reads the times of one file."""

  def __init__(self) -> None:
    self._fractions = array.array("i")
    self._dates = 0
    self._least: int | None = None
    self._most: int | None = None

  def read(self, value: Any) -> int | None:
    """Returns the whole part of a time; None for what is none."""
    found = parse(value)
    if found is None:
      return None
    whole, fraction, is_date = found
    self._fractions.append(fraction)
    self._dates += is_date
    if self._least is None or self._most is None:
      self._least = self._most = whole
    elif whole < self._least:
      self._least = whole
    elif whole > self._most:
      self._most = whole
    return whole

  def whole(self, seconds: np.ndarray) -> np.ndarray:
    """Returns times [n] int64 with their fractions, if there are any.

    Args:
      seconds: [n] what `read` returned.
    """
    fractions = np.frombuffer(self._fractions, np.int32)
    if not fractions.any() or np.abs(seconds).max() > _LARGEST:
      return seconds
    return seconds * MILLION + fractions

  def __str__(self) -> str:
    if self._least is None or self._most is None:
      return "no times"
    unit, per_second = "numbers", 0
    if self._dates:
      unit, per_second = "dates", 1
    else:
      for least, name, per in _UNITS:
        if self._most >= least:
          unit, per_second = f"epoch {name}", per
          break
    ends = [shown(time, per_second) for time in (self._least, self._most)]
    return f"{unit}, {ends[0]} to {ends[1]}"


def parse(value: Any) -> tuple[int, int, bool] | None:
  """Returns (whole, millionths, is a date) of a time; None for what is none."""
  if isinstance(value, (datetime.datetime, datetime.date)):
    return _of_moment(value)
  found = values.seconds(value)
  if isinstance(value, float):
    found = None if found is None or value != found else found
  if found is not None:
    return found, 0, False
  return _of_float(value) or (
    _of_text(value) if isinstance(value, str) else None
  )


def per_second(times: np.ndarray) -> int:
  """Returns the units of a second of times [n]; 0 where they count else."""
  most = int(times.max()) if len(times) else 0
  return next((per for least, _, per in _UNITS if most >= least), 0)


def shown(time: int, per: int) -> str:
  """Returns a time as a date, or as the number that it is.

  Args:
    time: in a unit of which a second has `per`; 0 = of no known unit.
    per: see `per_second`.
  """
  if not per:
    return f"{time:,}"
  try:
    moment = _EPOCH + datetime.timedelta(seconds=time // per)
  except OverflowError:
    return f"{time:,}"
  return moment.date().isoformat()


def _of_float(value: Any) -> tuple[int, int, bool] | None:
  """Returns the parts of e.g. 1.5e9 or "881250949.25"."""
  if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
    return None
  try:
    number = float(value)
    whole = values.seconds(number // 1)
  except (TypeError, ValueError, OverflowError):
    return None
  if whole is None:
    return None
  return whole, int((number - whole) * MILLION), False


def _of_text(text: str) -> tuple[int, int, bool] | None:
  text = text.strip()
  try:
    return _of_moment(datetime.datetime.fromisoformat(text))
  except (ValueError, OverflowError):
    pass
  for form in _FORMATS:
    try:
      return _of_moment(datetime.datetime.strptime(text, form))
    except (ValueError, OverflowError):
      continue
  return None


def _of_moment(moment: datetime.date) -> tuple[int, int, bool]:
  if not isinstance(moment, datetime.datetime):
    moment = datetime.datetime(moment.year, moment.month, moment.day)
  if moment.tzinfo is None:
    moment = moment.replace(tzinfo=datetime.UTC)
  since = moment - _EPOCH
  return since.days * 86_400 + since.seconds, since.microseconds, True
