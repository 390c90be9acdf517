"""Raw files to the prepared dataset, catalogue, manifest and doctor's notes."""

import pathlib

from bigrec_jax import config as config_lib, errors
from bigrec_jax.data.prepared import prepare
from bigrec_jax.stages import session
from bigrec_jax.workdir import processes, storage


def run(config: config_lib.Config, workdir: pathlib.Path) -> None:
  """Prepares the data of `workdir`, unless it is current already.

  Writes the TFDS dataset, `data/catalogue.jsonl`, `data/manifest.json`,
  `data/doctor.json` and, with `data.export_json`, the BIGRec JSON files.

  Raises:
    UserError: a raw file is missing or malformed.
  """
  ensure(session.Session(config, workdir))


def ensure(run: session.Session) -> None:
  """Prepares the data where the manifest is missing or of other inputs."""
  if not run.first_time("data"):
    return
  data, prompt = run.config.data, run.config.prompt
  if processes.agree(lambda: prepare.is_current(data, prompt, run.paths)):
    if not processes.agree(lambda: _lacks_ratings(run)):
      session.say(f"prepare: {run.paths.data} is current")
      return
    session.say(
      f"prepare: again, because task {run.task.name} needs ratings, which"
      f" {run.paths.data} was prepared without; nothing else is made again"
    )

  def work() -> None:
    for line in prepare.prepare(data, prompt, run.paths):
      session.say(f"prepare: {line}")

  processes.on_first(work)
  if _lacks_ratings(run):
    raise errors.UserError(
      f"config.data.format: {data.format} found, whose files have no ratings;"
      f" task {run.task.name} needs them"
    )


def _lacks_ratings(run: session.Session) -> bool:
  """Returns whether the task needs ratings that the prepared data lack."""
  if not run.task.needs_ratings:
    return False
  return not storage.read_json(run.paths.manifest).get("ratings", False)
