"""Stopping a run on purpose: preemption signals and losses that are NaN."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import jax
from absl import logging
from jax.experimental import multihost_utils

from bigrec_jax import errors

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class TrainingStopped(errors.UserError):
  """Training ended before its end; the message says where and what to do.

  A UserError, since it has to end the program the same way: one line, exit
  status 2, everything on disk whole.
  """


class Watch:
  """Remembers SIGTERM (or Ctrl-C) until the step under way is done.

  The second signal does what it would have done without this: a user who
  really wants out gets out. With several processes, all of them learn of a
  SIGTERM to one and stop at the same step.

  Attributes:
    name: of the signal that came; "" before.
  """

  def __init__(self) -> None:
    self.name = ""
    self._former: dict[int, Any] = {}

  def __enter__(self) -> Self:
    # Python allows handlers in the main thread only.
    if threading.current_thread() is threading.main_thread():
      for number in _SIGNALS:
        if jax.process_count() > 1 and number == signal.SIGTERM:
          continue  # jax.distributed has its own, see asked().
        self._former[number] = signal.signal(number, self._handle)
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self._restore()

  def asked(self, step: int) -> bool:
    """Returns whether to save and stop after this step."""
    if jax.process_count() > 1:
      if multihost_utils.reached_preemption_sync_point(step):
        self.name = self.name or "SIGTERM"
        return True
      return False
    return bool(self.name)

  def _handle(self, number: int, frame: FrameType | None) -> None:
    del frame
    self.name = signal.Signals(number).name
    logging.warning("%s: finishing this step, then saving", self.name)
    self._restore()

  def _restore(self) -> None:
    for number, handler in self._former.items():
      signal.signal(number, handler)
    self._former = {}
