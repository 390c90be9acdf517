"""What the stages of one command share: configuration, workdir, the walk."""

import contextlib
import dataclasses
import io
import itertools
import os
import pathlib
import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import logging

from bigrec_jax import config as config_lib, errors, home, progress
from bigrec_jax.recommend import loaded
from bigrec_jax.stages import described, graph
from bigrec_jax.tasks import registry
from bigrec_jax.workdir import (
  fingerprints,
  given,
  parts,
  processes,
  records,
  storage,
)


@dataclasses.dataclass(frozen=True)
class Asked:
  """What a command says beside the configuration.

  Attributes:
    make: a mode that only reads may make what is missing.
    dry_run: say what would be made, and make nothing.
    adapter: PEFT directory named on this command line to be used, "" if none
      is; `model.adapter` alone is where the workdir's training started.
    verify: digest all files that are looked at, whatever their times.
    flags: the command line, but for the mode, to be repeated in advice.
    remember: keeps the configuration in the workdir, once it was checked.
  """

  make: bool = False
  dry_run: bool = False
  verify: bool = False
  adapter: str = ""
  flags: tuple[str, ...] = ()
  remember: Callable[[], object] = lambda: None

  def command(self, mode: str) -> str:
    """Returns the command that runs another mode in place of this one."""
    flags = [f"--mode={mode}", *self.flags]
    program = "bigrec_jax" if home.IS_INSTALLED else "python main.py"
    return f"`{program} {shlex.join(flags)}`"


class Session(loaded.Loaded):
  """What a workdir holds, for stages, which add to it."""

  keeps_conversions = True
  lists_editions = False  # Of a mode that makes lists it is set.

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
    for note in self.ledger.notes:
      say(f"config: {note}")
    if self.asked.verify:
      self._tell_verified()
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
    found = self._counted("splits", split, "num_examples")
    if found is None:
      return None
    wanted = getattr(self.config.data, f"num_{split}")
    return found if wanted == -1 else min(wanted, found)

  def owners_of(self, splits: Sequence[str]) -> dict[str, Any]:
    """Returns what names whose rows are whose, where a user has several.

    Of what was measured where each user has one nothing is added, so it stays
    current; else intervals of before users were drawn are made again.
    """
    found = {
      split: fingerprints.of_value(self.examples(split).owners.tolist())
      for split in splits
      if self.users(split) is not None
    }
    return {"users": found} if found else {}

  def num_samples(self, split: str) -> int | None:
    """Returns how many samples the task makes of it; None = not prepared yet.

    For what is told beforehand: where the data can't be read, its rows count.
    """
    rows = self.num_examples(split)
    if rows is None:
      return None
    try:
      own = self.task.num_samples(split)
    except (errors.UserError, OSError):
      return rows
    return rows if own is None else own

  def num_items(self) -> int | None:
    """Returns the size of the catalogue; None = not prepared yet."""
    return self._counted("counts", "items")

  def _counted(self, *place: str) -> int | None:
    """Returns a number of the manifest; it may be missing or damaged."""
    value = storage.read_json_if_whole(self.paths.manifest)
    for key in place:
      value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, int) else None

  def _tell_verified(self) -> None:
    sizes = [*self.walk.artefacts.digested, *self.ledger.digested]
    say(f"verify: {len(sizes):,} files, {sum(sizes):,} bytes digested")

  def _describe(self, found: list[graph.Found]) -> None:
    speeds = self._speeds()
    for one in found:
      say(described.describe(one, self, speeds))
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
    if bar.done:  # Else all was done before, in another time.
      self.keep_throughput(name, bar.done, unit, bar.seconds)

  def parts_path(self, stage: str, made_from: Any) -> pathlib.Path:
    """Returns the file, or folder, of what a stage finished of a work."""
    name = fingerprints.of_value(made_from)
    return self.paths.parts / f"{stage}.{name}"

  def parts(self, stage: str, made_from: Any) -> parts.Parts:
    """Returns what a stage finished of a work that was cut short.

    Args:
      stage: its name.
      made_from: its inputs.
    """
    path = self.parts_path(stage, made_from)
    return parts.Parts(path, fingerprints.of_value(made_from))

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
    known = self._speeds()
    known[name] = {
      "count": count,
      "unit": unit,
      "seconds": round(seconds, 3),
      "per_second": round(count / max(seconds, 1e-9), 3),
      **other,
    }
    try:
      storage.write_json(self.paths.throughput, known)
    except OSError as error:  # What was made is whole without it.
      logging.warning("how fast %s was is not kept: %s", name, error)

  def _speeds(self) -> dict[str, dict[str, Any]]:
    """Returns metrics/throughput.json; nothing fails for want of it."""
    path = self.paths.throughput
    known = storage.read_json_if_whole(path)
    if isinstance(known, dict) and all(map(_is_speed, known.values())):
      return known
    if path.exists():
      logging.warning("%s is damaged: earlier speeds are forgotten", path)
    return {}


def _is_speed(value: Any) -> bool:
  """Returns whether a stage's entry in metrics/throughput.json is whole."""
  if not isinstance(value, dict) or not isinstance(value.get("unit"), str):
    return False
  numbers = [v for key, v in value.items() if key != "unit"]
  return "seconds" in value and all(
    isinstance(number, (int, float)) for number in numbers
  )


def say(line: str) -> None:
  """Prints a line that the user should see whatever the log level, once.

  Args:
    line: or a table of several.
  """
  if processes.is_first():
    print("\n".join(map(errors.one_line, line.split("\n"))), flush=True)
