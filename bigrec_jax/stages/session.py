"""What the stages of one run share, and which of them were looked at."""

import contextlib
import io
import pathlib
from collections.abc import Iterator

from bigrec_jax import config as config_lib, progress
from bigrec_jax.recommend import loaded
from bigrec_jax.workdir import processes, storage


class Session(loaded.Loaded):
  """What a workdir holds, for stages, which add to it."""

  def __init__(self, config: config_lib.Config, workdir: pathlib.Path):
    super().__init__(config, workdir)
    self._ready: set[str] = set()
    workdir.mkdir(parents=True, exist_ok=True)

  def first_time(self, stage: str) -> bool:
    """Returns whether a stage has not been looked at in this run yet."""
    first = stage not in self._ready
    self._ready.add(stage)
    return first

  def forget(self, stage: str) -> None:
    """Has a stage looked at again."""
    self._ready.discard(stage)

  @contextlib.contextmanager
  def stage(
    self, name: str, total: int, unit: str
  ) -> Iterator[progress.Progress]:
    """Shows the progress of a stage and keeps its throughput for the report."""
    stream = None if processes.is_first() else io.StringIO()
    with progress.Progress(total, unit, name, stream) as bar:
      yield bar
    self.keep_throughput(name, bar.done, unit, bar.seconds)

  def keep_throughput(
    self, name: str, count: int, unit: str, seconds: float
  ) -> None:
    """Adds how fast a stage was to metrics/throughput.json."""
    if not processes.is_first():
      return
    path = self.paths.throughput
    known = storage.read_json(path) if path.exists() else {}
    known[name] = {
      "count": count,
      "unit": unit,
      "seconds": round(seconds, 3),
      "per_second": round(count / max(seconds, 1e-9), 3),
    }
    storage.write_json(path, known)


def say(line: str) -> None:
  """Prints a line that the user should see whatever the log level, once."""
  if processes.is_first():
    print(line, flush=True)
