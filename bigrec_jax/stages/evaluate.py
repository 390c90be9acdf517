"""Measures the tuned model as the task of the configuration does."""

import pathlib
from typing import TYPE_CHECKING, Any

from bigrec_jax import config as config_lib
from bigrec_jax.results import rows, table
from bigrec_jax.stages import generate, ground_eval, session, train
from bigrec_jax.tasks import protocol
from bigrec_jax.workdir import processes, records

if TYPE_CHECKING:
  from collections.abc import Sequence


def run(config: config_lib.Config, workdir: pathlib.Path) -> None:
  """Writes `metrics/<task>.json`; prints a table.

  Of `next_title` this is `--mode=ground_eval`. Whatever is missing or stale
  is made first.
  """
  ensure(session.Session(config, workdir))


def ensure(run: session.Session) -> None:
  """Evaluates, unless the result on disk is of these very inputs."""
  task = run.task
  if task.grounds:
    ground_eval.ensure(run)
    return
  adapter = train.find_adapter(run) or train.ensure(run)
  made_from = _made_from(run, adapter)
  record, path = run.paths.record(task.name), run.paths.task_metrics(task.name)
  if records.is_current(record, made_from, path):
    session.say(f"evaluate: {path} is current")
    session.say(_table(rows.read_task(path)))
    return
  records.drop_record(record)
  found = task.evaluate(_evidence(run, adapter))
  processes.on_first(lambda: rows.write_task(path, found))
  records.write_record(record, made_from)
  session.say(_table(found))


def _made_from(run: session.Session, adapter: train.Adapter) -> dict[str, Any]:
  task = run.task
  decoding = generate.depends_on(run, adapter) if task.decodes else {}
  return {
    "base": run.base_fingerprint,
    "adapter": adapter.fingerprint,
    **decoding,
    **{k: v for s in protocol.SPLITS for k, v in task.made_from(s).items()},
    "catalogue": run.catalogue.fingerprint,
    "evaluated_from": task.evaluated_from(),
  }


def _evidence(
  run: session.Session, adapter: train.Adapter
) -> protocol.Evidence:
  def tuned() -> protocol.Tuned:
    lora_config, lora = run.load_adapter(adapter.directory)
    network = protocol.Network(
      run.build(lora_config), run.base.params, run.tokenizer, run.mesh
    )
    return protocol.Tuned(network, lora)

  return protocol.Evidence(
    tuned=tuned,
    predictions=lambda split: generate.ensure(run, split),
    progress=run.stage,
  )


def _table(found: "Sequence[rows.TaskRow]") -> str:
  """Returns all rows as a table for people."""
  names = list(dict.fromkeys(name for row in found for name in row.metrics))
  lines = []
  for row in found:
    line = [row.split, row.system, str(row.n)]
    for name in names:
      value, interval = row.metrics.get(name), row.ci95.get(name)
      line += [value, "{:.4f}-{:.4f}".format(*interval) if interval else ""]
    lines.append(line)
  headers = ["split", "system", "n"]
  headers += [word for name in names for word in (name, "95 %")]
  return table.format_table(headers, lines)
