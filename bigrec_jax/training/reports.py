"""What a training loop says while it runs: metrics, progress, traces."""

import contextlib
import pathlib
import time
from typing import Any

import jax
from absl import logging

from bigrec_jax import progress as progress_lib
from bigrec_jax.results import writer as writer_lib
from bigrec_jax.training import not_finite

Tree = Any


class _NullWriter:
  """Stands for a writer in all processes but the first."""

  def write(self, step: int, values: dict[str, float]) -> None:
    """Ignores the line."""

  def write_events(self, step: int, values: dict[str, float]) -> None:
    """Ignores the figures."""


Writer = writer_lib.MetricsWriter | _NullWriter
Progress = progress_lib.Progress | progress_lib.NullProgress


def open_writer(
  metrics: pathlib.Path, events: pathlib.Path | None, resume_step: int | None
) -> contextlib.AbstractContextManager[Writer]:
  """Returns the writer of metrics; only the first process writes."""
  if jax.process_index():
    return contextlib.nullcontext(_NullWriter())
  return writer_lib.MetricsWriter(metrics, events, resume_step)


def open_progress(
  total: int, unit: str, label: str
) -> contextlib.AbstractContextManager[Progress]:
  """Returns the progress of a stage; only the first process shows it."""
  if jax.process_index():
    return contextlib.nullcontext(progress_lib.NullProgress())
  return progress_lib.Progress(total, unit, label)


class StepReport:
  """Writes each step's metrics, late where the device is still at work.

  A step's tokens/s are by the time from the end of the one before, or from
  its own beginning where something else came between.
  """

  def __init__(
    self,
    writer: Writer,
    bar: Progress,
    *,
    late: bool = True,
    section: str = "train",
  ):
    """Starts with nothing to report.

    Args:
      writer: gets a line for each step.
      bar: likewise.
      late: steps return before the device has done them. Otherwise each is
        reported at once: its end is known then, and nothing waits for it.
      section: of the configuration, for messages.
    """
    self._section = section
    self._moves = not_finite.Moves()
    self._writer = writer
    self._bar = bar
    self._late = late
    self._pending: tuple[int, float, Any, int] | None = None
    self._last = time.monotonic()

  def begin(self) -> None:
    """To be called before each step."""
    if self._pending is None:  # The first, or evaluation came between.
      self._last = time.monotonic()

  def add(self, step: int, rate: float, metrics: Any, tokens: int) -> None:
    """Reports the step before this one, and keeps this one for later."""
    self.flush()
    self._pending = step, rate, metrics, tokens
    if not self._late:
      self.flush()

  def flush(self) -> None:
    """Reports what is pending; waits for the device to get there."""
    if self._pending is None:
      return
    (number, rate, metrics, tokens), self._pending = self._pending, None
    values = {k: float(v) for k, v in jax.device_get(metrics).items()}
    not_finite.check(values, number, self._section, self._moves)
    self._moves.add(number, rate)
    now = time.monotonic()
    speed, self._last = tokens / max(now - self._last, 1e-9), now
    line = {
      "loss": values["loss"],
      "learning_rate": rate,
      "grad_norm": values["grad_norm"],
    } | {k: v for k, v in values.items() if k not in ("loss", "grad_norm")}
    self._writer.write(number, line)
    self._writer.write_events(number, {"tokens_per_second": speed})
    self._bar.update(
      1, loss=round(values["loss"], 4), **{"tokens/s": round(speed)}
    )


class Profile:
  """Traces `count` steps from the third on, when everything is compiled."""

  def __init__(self, count: int, directory: pathlib.Path):
    self._count = count
    self._directory = directory
    self._seen = 0

  def before_step(self, state: Tree) -> None:
    """Starts or stops the trace."""
    if self._count and self._seen == 2:
      self._start()
    if self._count and self._seen == 2 + self._count:
      self._stop(state)
    self._seen += 1

  def close(self, state: Tree) -> None:
    """Stops a trace that the end of training cut short."""
    if self._count and 2 < self._seen <= 2 + self._count:
      self._stop(state)

  def _start(self) -> None:
    try:
      self._directory.mkdir(parents=True, exist_ok=True)
      jax.profiler.start_trace(self._directory)
    except (OSError, RuntimeError) as error:
      self._give_up(error)

  def _stop(self, state: Tree) -> None:
    jax.block_until_ready(state)
    try:
      jax.profiler.stop_trace()
    except (OSError, RuntimeError) as error:
      self._give_up(error)
      return
    logging.info("train: profile of steps written to %s", self._directory)

  def _give_up(self, error: Exception) -> None:
    """Goes on without a profile: no training fails for want of one."""
    self._count = 0
    logging.warning("train: no profile: %s: %s", self._directory, error)
