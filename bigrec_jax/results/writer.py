"""Metrics as JSON lines for programs and as TensorBoard events for people."""

import json
import math
import os
import pathlib
from types import TracebackType
from typing import Self

from bigrec_jax import errors
from bigrec_jax.results import events
from bigrec_jax.workdir import faults, storage


class MetricsWriter:
  """Appends `{"step": ..., name: value}` lines; mirrors them to TensorBoard.

  A resumed run continues the file: lines after `resume_step`, and a last line
  that a kill cut short, are dropped first, so that no step appears twice.

  Attributes:
    path: the JSON lines file.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    tensorboard: str | os.PathLike | None,
    resume_step: int | None,
  ):
    self.path = pathlib.Path(path)
    kept = read_jsonl(self.path) if resume_step and self.path.exists() else []
    last = resume_step or 0
    kept = [line for line in kept if _step(line) <= last]
    with storage.atomic_path(self.path) as temporary:
      temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
    self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
    self._events = None
    if tensorboard is not None:
      purge = None if resume_step is None else resume_step + 1
      self._events = events.Events(tensorboard, purge)

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self.close()

  def write(self, step: int, values: dict[str, float]) -> None:
    """Writes one line, flushed: a kill loses no step that was reported."""
    line = {"step": int(step)} | {k: float(v) for k, v in values.items()}
    with faults.writing(self.path):
      self._file.write(json.dumps(line) + "\n")
      self._file.flush()
    self.write_events(step, values)

  def write_events(self, step: int, values: dict[str, float]) -> None:
    """Writes to TensorBoard only: figures beyond the promised lines."""
    if self._events is not None:
      self._events.write(step, values)

  def close(self) -> None:
    """Closes the file and flushes the events."""
    with faults.writing(self.path):
      self._file.close()
    if self._events is not None:
      self._events.close()


def _step(line: dict) -> float:
  """Returns the step of a line, one beyond all others where it has none."""
  step = line.get("step")
  return step if isinstance(step, int) else math.inf


def read_jsonl(path: str | os.PathLike) -> list[dict]:
  """Reads the objects of JSON lines; lines that are none are left out.

  A kill cuts the last line short, and a run that goes on writes behind it.
  """
  lines = []
  with open(path, "rb") as file:
    for number, line in enumerate(file, 1):
      try:
        value = storage.parse_json(line, f"{path}: line {number}")
      except errors.UserError:
        continue
      if isinstance(value, dict):
        lines.append(value)
  return lines
