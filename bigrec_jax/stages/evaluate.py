"""Measures the tuned model as the task of the configuration does."""

import functools
import pathlib
from collections.abc import Iterator, Sequence

from bigrec_jax import config as config_lib
from bigrec_jax.results import rows, table
from bigrec_jax.stages import generate, graph, ground_eval, train
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
  return _of_task(session.task.name)


def finish(session: Session) -> None:
  """Prints the results of the current evaluation."""
  if session.task.grounds:
    ground_eval.finish(session)
  else:
    say(table_of(session.load(stage(session))))


@functools.cache
def _of_task(name: str) -> graph.Stage:
  return graph.Stage(
    name=name,
    mode="evaluate",
    where=lambda session: session.paths.task_metrics(name),
    needs=_needed,
    inputs=_inputs,
    is_there=lambda session: session.paths.task_metrics(name).exists(),
    files=lambda session: (f"metrics/{name}.json",),
    build=_build,
    load=lambda session: rows.read_task(session.paths.task_metrics(name)),
    check=train.check_used,
    batches=(),
  )


def _needed(session: Session) -> Iterator[graph.Stage]:
  yield from train.needed(session)
  if session.task.decodes:
    for split in protocol.SPLITS:
      yield generate.stage(split)


def _inputs(session: Session) -> graph.Inputs:
  task, adapter = session.task, train.used(session)
  decoding = generate.depends_on(session, adapter) if task.decodes else {}
  return {
    "base": session.base_fingerprint,
    "adapter": adapter.fingerprint,
    **decoding,
    **{k: v for s in protocol.SPLITS for k, v in task.made_from(s).items()},
    "catalogue": session.catalogue.fingerprint,
    "evaluated_from": task.evaluated_from(),
  }


def _build(session: Session, inputs: graph.Inputs) -> Sequence[rows.TaskRow]:
  """Writes the rows; a kill costs what was finished in the last seconds."""
  with session.parts(session.task.name, inputs) as parts:
    found = session.task.evaluate(_evidence(session, parts))
  path = session.paths.task_metrics(session.task.name)
  processes.on_first(lambda: rows.write_task(path, found))
  return found


def _evidence(session: Session, parts: parts_lib.Parts) -> protocol.Evidence:
  def tuned() -> protocol.Tuned:
    directory = train.used(session).directory
    lora_config, lora = session.load_adapter(directory)
    network = protocol.Network(
      session.build(lora_config),
      session.base.params,
      session.tokenizer,
      session.mesh,
    )
    return protocol.Tuned(network, lora)

  return protocol.Evidence(
    tuned=tuned,
    predictions=lambda split: session.load(generate.stage(split)),
    progress=session.stage,
    parts=parts,
  )


def table_of(found: Sequence[rows.TaskRow]) -> str:
  """Returns all rows as a table for people."""
  names = list(dict.fromkeys(name for row in found for name in row.metrics))
  if len(names) > _MOST_COLUMNS:
    splits = dict.fromkeys(row.split for row in found)
    parts = ([r for r in found if r.split == split] for split in splits)
    return "\n\n".join(_by_metric(part, names) for part in parts)
  lines = []
  for row in found:
    line: list[object] = [row.split, row.system, str(row.n)]
    for name in names:
      line += [row.metrics.get(name), _interval(row, name)]
    lines.append(line)
  headers = ["split", "system", "n"]
  headers += [word for name in names for word in (name, "95 %")]
  return table.format_table(headers, lines)


def _by_metric(found: Sequence[rows.TaskRow], names: Sequence[str]) -> str:
  """Returns the rows of one split with a line for each metric."""
  headers = [f"{found[0].split}, n = {found[0].n}"]
  headers += [word for row in found for word in (row.system, "95 %")]
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
