"""Ctrl-C and SIGTERM: who stops at once, and who saves before.

Python runs a signal's handler in the main thread only, between two of its own
instructions: not while XLA compiles or a device computes, and an exception
that the handler raises is lost where a library swallows it, as it is inside
JAX's garbage collection callback. So nothing is raised here. A thread learns
of the signal from Python's wakeup descriptor, prints one line and ends the
process, whatever the main thread is at. That is as good as a kill, which every
mode survives: files are whole or not there, and what was finished is kept.

A loop whose work would be lost holds a `Watch`: the signal then waits for its
next step, which is saved. It does not wait forever, and a second signal, or
the first during the first step, which mostly compiles, ends at once.

Only `main.py` installs this. A library's user keeps their own handlers.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

from bigrec_jax import errors

SIGNALS = (signal.SIGTERM, signal.SIGINT)
KEPT = "what was finished is kept; the same command goes on"
# A terminal's Ctrl-C reaches all processes of a run, and each tells the others.
_SAME_SECONDS = 0.7
# A step under way gets this long, or three times the longest so far.
_STEP_SECONDS = 20.0
_LEAVE_SECONDS = 60.0  # For the main thread, once everything is saved.
_FLUSH_SECONDS = 1.0
_READY_SECONDS = 3.0


class Others(Protocol):
  """The other processes of a run (workdir/lookout.py)."""

  def tell(self, number: int, at_once: bool) -> None:
    """Tells them of a signal."""

  def agree(self, step: int) -> None:
    """Says which step this process has done; `Watch.decide` is the answer."""

  def bye(self, status: int) -> None:
    """Says that this process leaves, and how."""


_last_word = threading.Lock()
_guard: "_Guard | None" = None


def install(one_of_several: bool = False) -> None:
  """Guards this process; from the main thread, before what takes long.

  Args:
    one_of_several: `join` will be called in a moment, so that a signal that
      comes before is told to the others, too.
  """
  global _guard
  if _guard is None:
    _guard = _Guard(one_of_several)
    _guard.start()


def join(others: Others | None) -> None:
  """Shares signals with the other processes of the run from now on.

  Args:
    others: None = it isn't known yet who they are.
  """
  if _guard is not None:
    _guard.others = others
    _guard.ready.set()


def notice(number: int, at_once: bool = False) -> None:
  """Does what a signal to another process of the run asks for here, too."""
  if _guard is not None:
    _guard.notice(number, at_once, relayed=True)


def pending() -> int:
  """Returns the number of the signal that came, 0 before."""
  return _guard.number if _guard is not None else 0


def decided(step: int | None) -> None:
  """Stops the loop of this process at a step that all agreed on.

  Args:
    step: the last one; None = there will be none, one of them has left.
  """
  if _guard is not None and _guard.number:
    _guard.decided(step)


def claim() -> None:
  """Returns if this thread may say the last word; else never.

  Two threads must not both say why the process ends.
  """
  if not _last_word.acquire(blocking=False):
    threading.Event().wait()


def leave(line: str, status: int) -> None:
  """Ends the process with one line on stderr, from any thread."""
  claim()
  if _guard is not None and _guard.others is not None:
    _guard.others.bye(status)
  # Whoever hangs in a full pipe must not keep this thread.
  last = threading.Thread(target=_write, args=(line,), daemon=True)
  last.start()
  last.join(_FLUSH_SECONDS)
  os._exit(status)


def _write(line: str) -> None:
  """Writes the last line, not into Python's buffers, whose lock may be held."""
  with contextlib.suppress(OSError):
    start = "\n" if os.isatty(2) else ""  # Below a progress bar.
    os.write(2, f"{start}{line}\n".encode(errors="replace"))
  with contextlib.suppress(OSError, ValueError):
    sys.stdout.flush()


class Watch:
  """Has a loop save and stop, in place of the process, at the next step.

  With several processes, all of them learn of a signal to one and stop at the
  same step.
  """

  # Whether the signal asked for what is done at the end, as of a server.
  ends_well = False
  # What is said when a signal comes; "" = the loop says it itself.
  said = "finishing this step, then saving"

  def __init__(self) -> None:
    self.number = 0
    self._steps = 0
    self._longest = 0.0
    self._last = time.monotonic()
    self._unhurried = 0
    self._asked: int | None = None  # The last step that was done.
    self._frozen = False
    self._stop: int | None = None
    self._changed = threading.Condition()
    self._former: dict[int, Any] = {}

  def __enter__(self) -> Self:
    if _guard is not None:
      _guard.watch = self
    elif threading.current_thread() is threading.main_thread():
      # Python allows handlers in the main thread only.
      for number in SIGNALS:
        if _is_one_of_several() and number == signal.SIGTERM:
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
    if _guard is not None:
      _guard.end(self, error)

  def asked(self, step: int) -> bool:
    """Returns whether to save and stop; to be called after each step."""
    if _guard is None and _is_one_of_several():
      from jax.experimental import multihost_utils

      if multihost_utils.reached_preemption_sync_point(step):
        self.number = self.number or signal.SIGTERM
        return True
      return False
    now = time.monotonic()
    with self._changed:
      self._longest = max(self._longest, now - self._last)
      self._last = now
      self._steps += 1
      self._asked = step
      while self._frozen and self._stop is None:
        self._changed.wait()
      stop = self._stop is not None and step >= self._stop
      self._unhurried += stop
    return stop

  @contextlib.contextmanager
  def unhurried(self) -> Iterator[None]:
    """Lets a signal wait as long as it takes, say for an evaluation."""
    self._unhurried += 1
    try:
      yield
    finally:
      self._unhurried -= 1

  def interrupted(self, done: str) -> errors.Interrupted:
    """Returns what to raise once everything is saved."""
    return errors.Interrupted(self.number, done)

  def begin_stop(self, number: int, several: bool) -> int | None:
    """Learns of a signal; called by the guard.

    Args:
      number: of the signal.
      several: wait with the next steps until `decide` says which is the last.

    Returns:
      The last step that was done; None = there is nothing to save.
    """
    with self._changed:
      self.number = number
      if self._steps:
        if several:
          self._frozen = True
        else:
          self._stop = 0  # Whatever comes next.
      return self._asked

  def decide(self, step: int) -> None:
    """Says at which step all processes stop."""
    with self._changed:
      self._stop = step
      self._changed.notify_all()

  @property
  def is_decided(self) -> bool:
    """Whether it is known where to stop."""
    return self._stop is not None

  def is_late(self, since: float) -> bool:
    """Returns whether the step under way takes too long to wait for it."""
    bound = max(_STEP_SECONDS, 3 * self._longest)
    return not self._unhurried and time.monotonic() - since > bound

  def _handle(self, number: int, frame: FrameType | None) -> None:
    del frame
    self.begin_stop(number, several=False)
    self._stop = 0
    _tell(number, self.said)
    self._restore()

  def _restore(self) -> None:
    for number, handler in self._former.items():
      signal.signal(number, handler)
    self._former = {}


class _Guard(threading.Thread):
  """Waits for signals in a thread of its own."""

  def __init__(self, one_of_several: bool) -> None:
    super().__init__(name="signals", daemon=True)
    self.ready = threading.Event()  # For `others`, if there are any.
    if not one_of_several:
      self.ready.set()
    self.number = 0
    self.watch: Watch | None = None
    self.others: Others | None = None
    self._since = 0.0
    self._leaves_by = 0.0  # The main thread, by itself; 0 = it doesn't.
    self._lock = threading.RLock()
    self._read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in SIGNALS:
      signal.signal(number, _ignore)
    # In between, a signal to the child would be read by its parent.
    os.register_at_fork(
      before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS),
      after_in_parent=_unblock,
      after_in_child=_forget,
    )

  def run(self) -> None:
    while True:
      timeout = 0.1 if self.number else None
      ready, _, _ = select.select([self._read], [], [], timeout)
      for number in os.read(self._read, 64) if ready else b"":
        if number in SIGNALS:
          self.notice(number, at_once=False, relayed=False)
      self._look()

  def notice(self, number: int, at_once: bool, relayed: bool) -> None:
    """Begins to stop; the second signal of this process ends at once."""
    self.ready.wait(_READY_SECONDS)
    with self._lock:
      if self.number:
        again = time.monotonic() - self._since > _SAME_SECONDS
        at_once |= again and not relayed
        if at_once:
          if self.others is not None and not relayed:
            self.others.tell(number, at_once=True)
          self.leave()
        return
      self.number, self._since = number, time.monotonic()
      others, watch = self.others, self.watch
      if others is not None and not relayed:
        others.tell(number, at_once)
      step = None
      if watch is not None:
        step = watch.begin_stop(number, several=others is not None)
      if at_once or step is None:
        if not self._leaves_by:
          self.leave()
        return
      _tell(number, "" if watch is None else watch.said)
      if others is not None:
        others.agree(step)

  def decided(self, step: int | None) -> None:
    """Passes on what the processes agreed on."""
    with self._lock:
      if self._leaves_by or (self.watch and self.watch.is_decided):
        return
      if step is None or self.watch is None:
        self.leave()
      else:
        self.watch.decide(step)

  def end(self, watch: Watch, error: BaseException | None) -> None:
    """Goes on without a watch; called by the main thread at its end."""
    with self._lock:
      if self.watch is watch:
        self.watch = None
      if error is None and watch.ends_well:
        self.number = 0
      if not self.number:
        return
      if error is None:
        self.leave()
      # It unwinds with an error of its own, which says more than we could.
      self._leaves_by = time.monotonic() + _LEAVE_SECONDS

  def leave(self, done: str = KEPT) -> None:
    """Ends the process."""
    line = str(errors.Interrupted(self.number, done))
    leave(line, 128 + self.number)

  def _look(self) -> None:
    """Ends the process where the main thread takes too long."""
    with self._lock:
      if self.number and self._leaves_by:
        if time.monotonic() > self._leaves_by:
          self.leave()
      elif self.number and self.watch is not None:
        if self.watch.is_late(self._since):
          self.leave(
            "the step under way took too long to wait for it; the same command"
            " goes on from what was saved before"
          )


def _ignore(number: int, frame: FrameType | None) -> None:
  """Does nothing: the guard reads the signal from the wakeup descriptor."""


def _forget() -> None:
  """Lets a forked child be ended as any process; the pipe is its parent's."""
  global _guard
  if _guard is not None:
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
      signal.signal(number, signal.SIG_DFL)
    _guard = None
  _unblock()


def _unblock() -> None:
  signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _tell(number: int, text: str) -> None:
  if text:
    _say(f"{signal.Signals(number).name}: {text}")


def _say(line: str) -> None:
  with contextlib.suppress(OSError):
    os.write(2, f"{line}\n".encode())


def _is_one_of_several() -> bool:
  from bigrec_jax.workdir import processes

  return processes.joined()
