"""What the stages of one command share: configuration, workdir, the walk."""

import contextlib
import dataclasses
import io
import itertools
import os
import pathlib
import shlex
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging

from bigrec_jax import config as config_lib, progress
from bigrec_jax.data.prepared import manifest
from bigrec_jax.recommend import loaded
from bigrec_jax.stages import graph
from bigrec_jax.tasks import registry
from bigrec_jax.workdir import given, processes, records, storage


@dataclasses.dataclass(frozen=True)
class Asked:
  """What a command says beside the configuration.

  Attributes:
    make: a mode that only reads may make what is missing.
    dry_run: say what would be made, and make nothing.
    adapter: PEFT directory named on this command line to be used, "" if none
      is; `model.adapter` alone is where the workdir's training started.
    flags: the command line, but for the mode, to be repeated in advice.
    remember: keeps the configuration in the workdir, once it was checked.
  """

  make: bool = False
  dry_run: bool = False
  adapter: str = ""
  flags: tuple[str, ...] = ()
  remember: Callable[[], object] = lambda: None

  def command(self, mode: str) -> str:
    """Returns the command that runs another mode in place of this one."""
    flags = [f"--mode={mode}", *self.flags]
    return f"`python main.py {shlex.join(flags)}`"


class Session(loaded.Loaded):
  """What a workdir holds, for stages, which add to it."""

  keeps_conversions = True

  def __init__(
    self,
    config: config_lib.Config,
    workdir: str | os.PathLike,
    asked: Asked | None = None,
  ):
    super().__init__(config, pathlib.Path(workdir))
    self.asked = asked or Asked(flags=(f"--workdir={workdir}",))
    self.walk = graph.Walk(self, say, logging.warning)

  def make(self, *stages: graph.Stage, reads: bool = False) -> set[str]:
    """Makes stages current, in order, and before them what they need.

    Returns:
      The names of the stages that were made.

    Raises:
      UserError: something can't be made, or may not.
    """
    if self.begin(*stages, reads=reads):
      for stage in stages:
        self.walk.make(stage)
    return self.walk.built

  def begin(self, *stages: graph.Stage, reads: bool = False) -> bool:
    """Looks at stages and checks, before any work, what can be known.

    Args:
      *stages: what the mode is for.
      reads: of all else nothing may be made unless --make asks.

    Returns:
      Whether to go on; not where only a plan was asked for.

    Raises:
      UserError: something can't be made, or may not.
    """
    given.check_texts(records.flatten(self.config.to_dict()))
    registry.check(self.config.task.name)
    self.walk.ask_for(*stages, may_make_needs=not reads or self.asked.make)
    found = self.walk.plan(*stages)
    caches = [
      one.stage for one in found if one.stage.is_cache and not one.is_current
    ]
    if reads and caches and not self.asked.dry_run:
      for stage in caches:  # So that what they are needed for is looked at.
        self.walk.make(stage)
      found = self.walk.plan(*stages)
    to_make = [one.stage for one in found if not one.is_current]
    # The mode's own first: a mistake in its options is the shortest answer.
    for stage in filter(self.walk.is_asked, to_make):
      stage.check(self)
    if not self.asked.dry_run:
      self.walk.refuse(found)
    for stage in itertools.filterfalse(self.walk.is_asked, to_make):
      stage.check(self)
    if self.asked.dry_run:
      self._describe(found)
      return False
    for stage in to_make:
      self._check_batches(stage)
    # A report alone tells of what is damaged, and reads the rest.
    if not all(stage.of_what_is_there for stage in to_make):
      given.check_places(self.paths)
    if to_make:
      given.check_folder_to_write("--workdir", self.paths.root)
    if not reads or self.asked.make:
      self.asked.remember()
    return True

  def load(self, stage: graph.Stage) -> Any:
    """Returns the artefact of a stage that is needed, so current."""
    return self.walk.load(stage)

  def _check_batches(self, stage: graph.Stage) -> None:
    if stage.batches is None:
      return
    from bigrec_jax.devices import sharding

    mesh = self.mesh  # An error if the devices don't make one.
    values = records.flatten(self.config.to_dict())
    for key in stage.batches:
      sharding.check_batch(mesh, values[key], f"config.{key}")

  def num_examples(self, split: str) -> int | None:
    """Returns how many rows of a split are used; None = not prepared yet."""
    if not self.paths.manifest.exists():
      return None
    found = manifest.read(self.paths.manifest).num_examples.get(split, 0)
    wanted = getattr(self.config.data, f"num_{split}")
    return found if wanted == -1 else min(wanted, found)

  def num_items(self) -> int | None:
    """Returns the size of the catalogue; None = not prepared yet."""
    if not self.paths.manifest.exists():
      return None
    return manifest.read(self.paths.manifest).items

  def _describe(self, found: list[graph.Found]) -> None:
    path = self.paths.throughput
    speeds = storage.read_json(path) if path.exists() else {}
    for one in found:
      say(graph.describe(one, self, speeds))
    if refusal := self.walk.refusal(found):
      say(refusal)

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
    self, name: str, count: int, unit: str, seconds: float, **other: int
  ) -> None:
    """Adds how fast a stage was to metrics/throughput.json.

    Args:
      name: of the stage.
      count: of units done.
      unit: e.g. users.
      seconds: that they took.
      **other: counts of other units that were done in the same time.
    """
    if not processes.is_first():
      return
    path = self.paths.throughput
    known = storage.read_json(path) if path.exists() else {}
    known[name] = {
      "count": count,
      "unit": unit,
      "seconds": round(seconds, 3),
      "per_second": round(count / max(seconds, 1e-9), 3),
      **other,
    }
    storage.write_json(path, known)


def say(line: str) -> None:
  """Prints a line that the user should see whatever the log level, once."""
  if processes.is_first():
    print(line, flush=True)
