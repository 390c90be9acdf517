"""TensorBoard events: written at once, and never what stops a run.

tensorboardX's own writer has a thread and an exit hook, whose errors nobody
can catch: on a full disk they print tracebacks beside the line that says so.
"""

import importlib
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

from absl import logging


class Events:
  """An event file; once it can't be written, a line says so and it ends."""

  def __init__(self, folder: str | os.PathLike, purge_step: int | None):
    """Opens a new file.

    Args:
      folder: of all event files of the run.
      purge_step: what TensorBoard has from this step on no longer counts;
        None = all does.
    """
    self._folder = pathlib.Path(folder)
    self._file: Any = None
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
      files = _tensorboard("event_file_writer")
      self._file = files.EventsWriter(os.fspath(self._folder / "events"))
      if purge_step is not None:
        self._start_at(purge_step)
    except OSError as error:
      self._give_up(error)

  def _start_at(self, step: int) -> None:
    protos = _tensorboard("proto.event_pb2")
    started = protos.SessionLog(status=protos.SessionLog.START)
    version = protos.Event(step=step, file_version="brain.Event:2")
    for event in (version, protos.Event(step=step, session_log=started)):
      self._file.write_event(event)
    self._file.flush()

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes some values of a step."""
    if self._file is None:
      return
    protos, summary = _tensorboard("proto.event_pb2"), _tensorboard("summary")
    now = time.time()
    try:
      for name, value in values.items():
        content = summary.scalar(name, float(value))
        self._file.write_event(
          protos.Event(step=int(step), summary=content, wall_time=now)
        )
      self._file.flush()
    except OSError as error:
      self._give_up(error)

  def close(self) -> None:
    """Closes the file."""
    file, self._file = self._file, None
    try:
      if file is not None:
        file.close()
    except OSError as error:
      self._give_up(error)

  def _give_up(self, error: OSError) -> None:
    self._file = None
    logging.warning(
      "%s: no more TensorBoard events: %s", self._folder, error.strerror
    )


def _tensorboard(module: str) -> Any:
  """Imports a module of tensorboardX; only training needs it.

  It imports torch where there is one, to accept tensors. That takes seconds,
  and we write numbers only; so it is told that there is none.
  """
  hidden = "torch" not in sys.modules
  if hidden:
    # Python's own way to say "not there"; the stubs don't know it.
    sys.modules["torch"] = None  # type: ignore[assignment]
  try:
    return importlib.import_module(f"tensorboardX.{module}")
  finally:
    if hidden:
      del sys.modules["torch"]
