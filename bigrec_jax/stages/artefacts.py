"""The content of artefacts: compared with their records, and kept in them."""

from typing import TYPE_CHECKING

from bigrec_jax import errors
from bigrec_jax.workdir import contents, processes, records

if TYPE_CHECKING:
  from bigrec_jax.stages import graph
  from bigrec_jax.stages.session import Session


class Artefacts:
  """Checks what stages wrote; all but `keep` runs in the first process alone.

  Attributes:
    keeps: records may be brought up to date.
    verify: compare all bytes, whatever sizes and times say.
    digested: sizes of the files that were read from end to end, in bytes.
  """

  def __init__(self, session: "Session"):
    self._session = session
    self.keeps = False
    self.verify = False
    self.digested: list[int] = []

  def problems(self, stage: "graph.Stage") -> list[str]:
    """Returns why a stage's files aren't what it wrote, a line each.

    A record of before there were digests gets them here, if what it is of can
    be read at all.

    Args:
      stage: whose inputs are those of its record.
    """
    if stage.files is None:
      return []
    session = self._session
    record = session.paths.record(stage.name)
    patterns = tuple(stage.files(session))
    content = contents.read(record)
    if content is None:
      return self._adopt(stage, patterns)
    found = contents.compare(
      session.paths.root, content, patterns, verify=self.verify
    )
    self.digested += found.digested
    lines = [
      *found.problems.values(),
      *contents.compare_values(content, stage.shares(session)),
    ]
    if found.digested and not lines and self.keeps:
      stored = records.read(record) or {}
      records.rewrite(record, stored, found.content.to_json())
    return lines

  def _adopt(
    self, stage: "graph.Stage", patterns: tuple[str, ...]
  ) -> list[str]:
    session = self._session
    record = session.paths.record(stage.name)
    sound = stage.sound or stage.load
    try:
      if sound is not None:
        sound(session)
    except (
      errors.UserError,
      OSError,
      ValueError,
      KeyError,
      TypeError,
    ) as error:
      return [f"{stage.where(session)}: damaged: {error}"]
    if self.keeps:
      made_from = records.read(record) or {}
      content = self._take(stage, patterns)
      records.rewrite(record, made_from, content.to_json())
    return []

  def keep(self, stage: "graph.Stage", inputs: "graph.Inputs") -> None:
    """Writes the record of an artefact that is whole.

    Args:
      stage: that was built.
      inputs: what from; a stage that knows its own has none here.
    """
    session = self._session
    if stage.differs is not None and stage.files is None:
      return
    made_from = inputs if stage.differs is None else {}

    def write() -> None:
      content = None
      if stage.files is not None:
        content = self._take(stage, tuple(stage.files(session))).to_json()
      records.rewrite(session.paths.record(stage.name), made_from, content)

    processes.on_first(write)

  def drop(self, stage: "graph.Stage") -> None:
    """Says that an artefact no longer holds, before it is made again."""
    if stage.differs is None or stage.files is not None:
      records.drop_record(self._session.paths.record(stage.name))

  def _take(
    self, stage: "graph.Stage", patterns: tuple[str, ...]
  ) -> contents.Content:
    session = self._session
    return contents.take(session.paths.root, patterns, stage.shares(session))
