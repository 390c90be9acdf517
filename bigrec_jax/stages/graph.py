"""The stages of a workdir as a graph: what each needs, is made from, and how.

A `Stage` declares all that there is to know of one artefact; a `Walk` looks at
the stages that a mode needs, says what is current, missing or stale, and makes
in order what isn't current. Each stage is looked at once in a process.

What an artefact was made from is compared by value, with the record that was
written once it was whole (workdir/records.py), and so is what its files hold
(stages/artefacts.py).
"""

import dataclasses
import enum
import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bigrec_jax import errors
from bigrec_jax.stages import artefacts, memory
from bigrec_jax.workdir import fingerprints, parts, processes, records

if TYPE_CHECKING:
  from bigrec_jax.stages.session import Session

Inputs = Mapping[str, Any]
EVERY_TIME = "every time"  # Why an artefact that is never current is made.


@dataclasses.dataclass(frozen=True)
class Cost:
  """How much work there is to a stage.

  Attributes:
    count: of units.
    unit: e.g. users.
    label: under which metrics/throughput.json keeps how fast it was.
    at_most: it may end earlier.
  """

  count: int
  unit: str
  label: str
  at_most: bool = False


@dataclasses.dataclass(frozen=True)
class Stage:
  """One artefact of a workdir. All functions are given the session.

  Attributes:
    name: of its record; no two stages of a workdir share it.
    mode: the --mode that makes it.
    where: the file or folder to name in messages.
    build: makes it of `inputs`, which are as `inputs` returned them; what it
      returns is what `load` would, unless that is None.
    needs: yields the stages that must be current before, one after the other.
    inputs: what the artefact is made from, by value; only asked for once the
      needs are current.
    is_there: whether all files are.
    files: patterns of the files of the artefact, by their paths in the workdir
      (workdir/contents.py); None = nobody checks what they hold.
    shares: what it keeps in files that it shares with other stages, by name.
    sound: raises where an artefact of before records said what its files hold
      can't be what was written; None = `load` does.
    load: reads the artefact.
    differs: in place of `inputs` and a record: why the artefact isn't current,
      a line each.
    tolerated: dotted keys (or sections) of the inputs that may differ where an
      artefact is only used; the mode that makes it takes none of them for
      granted.
    set_aside: called before `build` where the artefact isn't current, its
      record still there.
    check: raises UserError for what can't work, before anything is made.
    batches: keys whose values have to divide over the mesh's rows, checked
      likewise; None = devices aren't used at all.
    is_cache: it only saves time, so modes that read make it, too.
    of_what_is_there: its inputs are whatever lies in the workdir, so it comes
      after all else that is made, and is looked at when its turn comes.
    quiet: it is made in a moment or answers a question, so nobody is told why
      it is made again.
    cost: of building it, where that can be told; it may find nothing on disk.
  """

  name: str
  mode: str
  where: "Callable[[Session], pathlib.Path]"
  build: "Callable[[Session, Inputs], Any]"
  needs: "Callable[[Session], Iterable[Stage]]" = lambda session: ()
  inputs: "Callable[[Session], Inputs]" = lambda session: {}
  is_there: "Callable[[Session], bool] | None" = None
  files: "Callable[[Session], Iterable[str]] | None" = None
  shares: "Callable[[Session], Mapping[str, Any]]" = lambda session: {}
  sound: "Callable[[Session], object] | None" = None
  load: "Callable[[Session], Any] | None" = None
  differs: "Callable[[Session], list[str]] | None" = None
  tolerated: frozenset[str] = frozenset()
  set_aside: "Callable[[Session, Inputs], None] | None" = None
  check: "Callable[[Session], None]" = lambda session: None
  batches: tuple[str, ...] | None = None
  of_what_is_there: bool = False
  quiet: bool = False
  is_cache: bool = False
  cost: "Callable[[Session], Cost | None]" = lambda session: None


class Status(enum.Enum):
  """How an artefact stands to the configuration."""

  CURRENT = "current"
  STALE = "stale"
  DAMAGED = "damaged"  # Of these inputs, but its files were changed since.
  MISSING = "missing"
  WAITING = "waiting"  # Made after what it needs; then it is looked at.


@dataclasses.dataclass(frozen=True)
class Found:
  """What a look at a stage found.

  Attributes:
    stage: the stage.
    status: how its artefact stands.
    why: it isn't current, a line each; of WAITING the names of its needs that
      aren't. Known to the first process alone.
    told: differences that are tolerated.
    inputs: as the stage gave them; None where they weren't asked for.
  """

  stage: Stage
  status: Status
  why: tuple[str, ...] = ()
  told: tuple[str, ...] = ()
  inputs: Inputs | None = None

  @property
  def is_current(self) -> bool:
    """Whether there is nothing to make."""
    return self.status is Status.CURRENT


class Walk:
  """Looks at stages and makes what isn't current, each once."""

  def __init__(
    self, session: "Session", tell: Callable[[str], object], warn: Callable
  ):
    """Begins a walk.

    Args:
      session: given to the functions of stages.
      tell: shown the lines for the user.
      warn: shown tolerated differences.
    """
    self._session, self._tell, self._warn = session, tell, warn
    self._asked: set[str] = set()
    self._makes_needs = True
    self._found: dict[str, Found] = {}
    self._made: set[str] = set()
    self._values: dict[str, Any] = {}
    self.built: set[str] = set()
    self.artefacts = artefacts.Artefacts(session)

  def ask_for(self, *stages: Stage, may_make_needs: bool) -> None:
    """Says what a mode is for: in these stages no difference is tolerated.

    Args:
      *stages: the mode's own.
      may_make_needs: whether all else may be made, too.
    """
    asked, ledger = self._session.asked, self._session.ledger
    self._asked |= {stage.name for stage in stages}
    self._makes_needs = may_make_needs
    for checked in (self.artefacts, ledger):
      checked.keeps = may_make_needs and not asked.dry_run
      checked.verify = asked.verify

  def is_asked(self, stage: Stage) -> bool:
    """Returns whether the mode is for this very stage."""
    return stage.name in self._asked

  def look(self, stage: Stage) -> Found:
    """Returns how a stage stands; nothing is made or written."""
    if stage.name in self._found:
      return self._found[stage.name]
    waits = [
      need.name
      for need in stage.needs(self._session)
      if not self.look(need).is_current
    ]
    if waits:  # Not kept: it is another answer once they are made.
      return Found(stage, Status.WAITING, tuple(dict.fromkeys(waits)))
    inputs: Inputs | None = None
    differences: Callable[[], Iterable[str]]
    if stage.differs is not None:
      differences = functools.partial(stage.differs, self._session)
    else:
      # By all processes: to name a base may take all of them.
      inputs = stage.inputs(self._session)
      differences = functools.partial(self._differences, stage, inputs)
    why: list[str] = []
    told: list[str] = []
    damage: list[str] = []

    def is_current() -> bool:
      for line in differences():
        key = line.split(": ", 1)[0]
        known = records.covers(stage.tolerated, key)
        (told if known and not self.is_asked(stage) else why).append(line)
      if not why:
        damage.extend(self.artefacts.problems(stage))
      return not (why or damage)

    status = Status.STALE
    if processes.agree(is_current):
      status = Status.CURRENT
    elif damage:
      status, why = Status.DAMAGED, damage
    elif why in ([records.NOT_MADE], [EVERY_TIME]):
      status = Status.MISSING
    found = Found(stage, status, tuple(why), tuple(told), inputs)
    if not stage.of_what_is_there:
      self._found[stage.name] = found
    return found

  def plan(self, *stages: Stage) -> list[Found]:
    """Returns how the stages and all that they need stand, in order."""
    order: dict[str, Found] = {}

    def visit(stage: Stage) -> None:
      if stage.name in order:
        return
      for need in stage.needs(self._session):
        visit(need)
      waits = [name for name, one in order.items() if not one.is_current]
      if stage.of_what_is_there and waits:
        order[stage.name] = Found(stage, Status.WAITING, tuple(waits))
      else:
        order[stage.name] = self.look(stage)

    for stage in stages:
      visit(stage)
    return list(order.values())

  def make(self, stage: Stage) -> None:
    """Makes a stage current, and what it needs before it."""
    if stage.name in self._made:
      return
    for need in stage.needs(self._session):
      self.make(need)
    found = self.look(stage)
    for line in found.told:
      self._warn(f"{stage.where(self._session)} was made with {line}")
    if not found.is_current:
      self._build(found)
    elif self._makes_needs or self.is_asked(stage):
      self._tell(f"{stage.mode}: {stage.where(self._session)} is current")
    self._made.add(stage.name)

  def load(self, stage: Stage) -> Any:
    """Returns the artefact of a stage, which is read once.

    Raises:
      LookupError: it isn't current: who loads a stage has to need it. Or its
        artefact is nothing that is loaded.
    """
    if stage.name not in self._values:
      if stage.load is None:
        raise LookupError(f"{stage.name} is loaded, but nothing reads it")
      if not self.look(stage).is_current:
        raise LookupError(f"{stage.name} is loaded, but not current")
      self._values[stage.name] = stage.load(self._session)
    return self._values[stage.name]

  def make_again(self, stage: Stage, why: str) -> None:
    """Makes a stage whose artefact turned out not to be whole.

    Args:
      stage: one that was taken for current.
      why: it is not.
    """
    self._made.discard(stage.name)
    self._values.pop(stage.name, None)
    self._found[stage.name] = Found(stage, Status.DAMAGED, (why,))
    self.make(stage)

  def refusal(self, found: Iterable[Found]) -> str:
    """Returns why a mode that only reads can't go on, "" if it can.

    Args:
      found: the stages that it needs, in order.
    """
    wanting = [
      one
      for one in found
      if not (one.is_current or one.stage.is_cache or self.is_asked(one.stage))
    ]
    if self._makes_needs or not wanting:
      return ""
    session, first = self._session, wanting[0]
    state = "isn't there"
    if first.status is Status.STALE:
      why = "; ".join((*first.why, *session.ledger.notes))
      state = f"is of other inputs ({why})"
    elif first.status is Status.DAMAGED:
      state = f"isn't what was written there ({'; '.join(first.why)})"
    after = [str(one.stage.where(session)) for one in wanting[1:]]
    more = f", and so {', '.join(after)} can't be used" if after else ""
    return (
      f"{first.stage.where(session)} {state}{more}; this mode only reads:"
      f" {session.asked.command(first.stage.mode)} makes it, --make makes all"
      " that is missing"
    )

  def refuse(self, found: Iterable[Found]) -> None:
    """Stops a mode that only reads where it would have to make something.

    Raises:
      UserError: `refusal` says why.
    """
    if line := self.refusal(found):
      raise errors.UserError(line)

  def _differences(self, stage: Stage, inputs: Inputs) -> Iterator[str]:
    session = self._session
    if stage.is_there is not None and not stage.is_there(session):
      yield records.NOT_MADE
    else:
      record = session.paths.record(stage.name)
      yield from records.differences(record, inputs)

  def _build(self, found: Found) -> None:
    stage, session = found.stage, self._session
    self.refuse([found])
    if (found.status is Status.STALE and not stage.quiet) or (
      found.status is Status.DAMAGED
    ):
      for line in found.why:
        self._tell(f"{stage.mode}: again, because of {line}")
    inputs = found.inputs
    if inputs is None:
      inputs = stage.inputs(session)
    if stage.set_aside is not None:
      stage.set_aside(session, inputs)
    self.artefacts.drop(stage)
    processes.on_first(
      lambda: session.paths.root.mkdir(parents=True, exist_ok=True)
    )
    with memory.named(stage.mode, stage.batches or ()):
      value = stage.build(session, inputs)
    self.artefacts.keep(stage, inputs)
    if stage.differs is None:
      # Whoever keeps other works' artefacts keeps what they had finished, too.
      whose = fingerprints.of_value(inputs) if stage.set_aside else None
      processes.on_first(
        lambda: parts.discard(session.paths.parts, stage.name, whose)
      )
    self.built.add(stage.name)
    self._found[stage.name] = Found(stage, Status.CURRENT)
    if value is not None:
      self._values[stage.name] = value
