"""Measures the tuned model as the task of the configuration does."""

import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from bigrec_jax import config as config_lib
from bigrec_jax.recommend import other_model, recommender as recommender_lib
from bigrec_jax.results import rows, table
from bigrec_jax.stages import (
  generate,
  graph,
  ground_eval,
  pretrain,
  recommend,
  train,
)
from bigrec_jax.stages.session import Asked, Session, say
from bigrec_jax.tasks import protocol
from bigrec_jax.workdir import parts as parts_lib, processes

# Metrics side by side; of more than these each has a line of its own.
_MOST_COLUMNS = 6


def run(
  config: config_lib.Config, workdir: pathlib.Path, asked: Asked | None = None
) -> None:
  """Writes `metrics/<task>.json`; prints a table.

  Of `next_title` this is `--mode=ground_eval`. Whatever is missing or stale
  is made first.
  """
  session = Session(config, workdir, asked)
  if session.task.grounds:
    ground_eval.run(config, workdir, asked)
    return
  session.make(stage(session))
  if not session.asked.dry_run:
    finish(session)


def stage(session: Session) -> graph.Stage:
  """Returns the stage that evaluates the task of the configuration."""
  if session.task.grounds:
    return ground_eval.STAGE
  return _of_task(session.task.name, session.task.batches)


def finish(session: Session) -> None:
  """Prints the results of the current evaluation."""
  if session.task.grounds:
    ground_eval.finish(session)
  else:
    say(table_of(session.load(stage(session))))


@functools.cache
def _of_task(name: str, batches: tuple[str, ...]) -> graph.Stage:
  return graph.Stage(
    name=name,
    mode="evaluate",
    where=lambda session: session.paths.task_metrics(name),
    needs=_needed,
    inputs=_inputs,
    is_there=lambda session: session.paths.task_metrics(name).exists(),
    files=lambda session: (
      f"metrics/{name}.json",
      f"metrics/{name}.npz",
      *session.task.files,
    ),
    build=_build,
    load=lambda session: rows.read_task(session.paths.task_metrics(name)),
    check=_check,
    batches=batches,
  )


def _needed(session: Session) -> Iterator[graph.Stage]:
  task = session.task
  yield from train.needed(session) if task.trains else pretrain.needed(session)
  if task.recommends:
    yield ground_eval.STAGE
    yield from recommend.needed(session)
  if task.decodes:
    for split in protocol.SPLITS:
      yield generate.stage(split)


def _check(session: Session) -> None:
  if session.task.trains:
    train.check_used(session)
  session.task.check()


def _inputs(session: Session) -> graph.Inputs:
  task = session.task
  made_from: dict[str, Any] = {}
  if task.trains:
    adapter = train.used(session)
    made_from["adapter"] = adapter.fingerprint
    if task.decodes:
      made_from |= generate.depends_on(session, adapter)
  if task.recommends:
    made_from["lists"] = recommend.depends_on(session)
  if task.asks is not None:
    made_from["asked"] = other_model.fingerprint(session, task.asks)
  return {
    "base": session.base_fingerprint,
    **made_from,
    **{k: v for s in protocol.SPLITS for k, v in task.made_from(s).items()},
    "catalogue": session.catalogue.fingerprint,
    "evaluated_from": task.evaluated_from(),
    **session.owners_of(protocol.SPLITS),
  }


def _build(session: Session, inputs: graph.Inputs) -> Sequence[rows.TaskRow]:
  """Writes the rows; a kill costs what was finished in the last seconds."""
  with session.parts(session.task.name, inputs) as parts:
    found = session.task.evaluate(_evidence(session, parts))
  paths, name = session.paths, session.task.name

  def write() -> None:
    rows.write_each(paths.task_each(name), found)
    rows.write_task(paths.task_metrics(name), found)

  processes.on_first(write)
  return found


def _evidence(session: Session, parts: parts_lib.Parts) -> protocol.Evidence:
  def tuned() -> protocol.Tuned:
    directory = train.used(session).directory
    lora_config, lora = session.load_adapter(directory)
    return protocol.Tuned(session.network(session.build(lora_config)), lora)

  return protocol.Evidence(
    tuned=tuned,
    untuned=lambda path: other_model.network(session, path),
    recommender=lambda: recommend.recommender(
      session, recommender_lib.Recommender
    ),
    predictions=lambda split: session.load(generate.stage(split)),
    progress=session.stage,
    parts=parts,
  )


def table_of(found: Sequence[rows.TaskRow]) -> str:
  """Returns all rows as tables for people."""
  return "\n\n".join(map(_one_table, rows.alike(found)))


def _one_table(found: Sequence[rows.TaskRow]) -> str:
  """Returns rows with metrics in common as a table, or one a split."""
  names = list(dict.fromkeys(name for row in found for name in row.metrics))
  if len(names) > _MOST_COLUMNS:
    return "\n\n".join(map(_by_metric, _parts(found)))
  lines = []
  for row in found:
    line: list[object] = [row.split, row.system, str(row.n)]
    for name in names:
      line += [row.metrics.get(name), _interval(row, name)]
    lines.append(line)
  headers = ["split", "system", "n"]
  headers += [word for name in names for word in (name, "95 %")]
  return table.format_table(headers, lines)


def _parts(found: Sequence[rows.TaskRow]) -> Iterator[list[rows.TaskRow]]:
  """Yields neighbours of one split that have some metric in common."""
  part: list[rows.TaskRow] = []
  names: set[str] = set()
  for row in found:
    if part and (row.split != part[-1].split or not names & set(row.metrics)):
      yield part
      part, names = [], set()
    part.append(row)
    names |= set(row.metrics)
  yield part


def _by_metric(found: Sequence[rows.TaskRow]) -> str:
  """Returns the rows of one split with a line for each of its metrics."""
  names = dict.fromkeys(name for row in found for name in row.metrics)
  headers, systems = [found[0].split], [row.system for row in found]
  if len({row.n for row in found}) == 1:
    headers = [f"{found[0].split}, n = {found[0].n}"]
  else:
    systems = [f"{row.system} (n = {row.n})" for row in found]
  headers += [word for system in systems for word in (system, "95 %")]
  lines = []
  for name in names:
    line: list[object] = [name]
    for row in found:
      line += [row.metrics.get(name), _interval(row, name)]
    lines.append(line)
  return table.format_table(headers, lines)


def _interval(row: rows.TaskRow, name: str) -> str:
  ends = row.ci95.get(name)
  return "{:.4f}-{:.4f}".format(*ends) if ends else ""
