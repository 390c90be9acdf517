"""Progress of long work: a bar on a terminal, plain lines otherwise."""

import sys
import time
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class Reports(Protocol):
  """What long-running functions call as they advance."""

  def update(self, count: int, **postfix: Any) -> None:
    """Says that `count` more units are done."""

  def skip(self, count: int) -> None:
    """Says that `count` units were done before."""


class NullProgress:
  """Reports nothing; for tests and for inner work nobody watches."""

  def update(self, count: int, **postfix: Any) -> None:
    """Ignores the call."""

  def skip(self, count: int) -> None:
    """Ignores the call."""


class Progress:
  """Counts units of work and shows rate and ETA.

  On a terminal this is a bar (tqdm). In a log, where a bar would be noise, it
  is one line at the first update, then one about every ten seconds, and one
  at the end.
  """

  def __init__(
    self, total: int, unit: str, label: str, stream: TextIO | None = None
  ):
    self._total = total
    self._unit = unit
    self._label = label
    self._stream = stream or sys.stderr
    self._bar = None
    self._done = self._skipped = 0
    self._start = self._last_line = time.monotonic()
    self._postfix: dict[str, Any] = {}

  def __enter__(self) -> Self:
    self._start = self._last_line = time.monotonic()
    if self._stream.isatty():
      self._bar = tqdm.tqdm(
        total=self._total,
        unit=f" {self._unit}",
        desc=self._label,
        file=self._stream,
        dynamic_ncols=True,
      )
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    if self._bar is not None:
      self._bar.close()
    elif kind is None:
      self._line(final=True)

  @property
  def seconds(self) -> float:
    """Seconds since the start."""
    return time.monotonic() - self._start

  @property
  def done(self) -> int:
    """Units done since the start."""
    return self._done - self._skipped

  @property
  def rate(self) -> float:
    """Units per second since the start."""
    return self.done / max(self.seconds, 1e-9)

  def skip(self, count: int) -> None:
    """Says that `count` units were done before, in no time of this run."""
    self._skipped += count
    self._done += count
    if self._bar is not None:
      self._bar.initial += count
      self._bar.update(count)
    elif count:
      print(
        f"{self._label}: {count:,}/{self._total:,} {self._unit} were done"
        " before",
        file=self._stream,
        flush=True,
      )

  def update(self, count: int, **postfix: Any) -> None:
    """Adds `count` units; `postfix` are figures to show beside the rate."""
    first = self.done == 0
    self._done += count
    self._postfix.update(postfix)
    if self._bar is not None:
      self._bar.set_postfix(self._postfix, refresh=False)
      self._bar.update(count)
    elif first or time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
      self._line(final=False)

  def _line(self, final: bool) -> None:
    self._last_line = time.monotonic()
    figures = "".join(f", {k} {_short(v)}" for k, v in self._postfix.items())
    if final:
      when = f"in {_clock(self.seconds)}"
    else:
      left = max(self._total - self._done, 0) / max(self.rate, 1e-9)
      when = f"ETA {_clock(left)}"
    print(
      f"{self._label}: {self._done:,}/{self._total:,} {self._unit},"
      f" {_short(self.rate)} {self._unit}/s, {when}{figures}",
      file=self._stream,
      flush=True,
    )


def _short(value: Any) -> str:
  return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours}:{minutes:02}:{seconds:02}"
  return f"{minutes}:{seconds:02}"
