"""Raw files to the prepared dataset, catalogue, manifest and doctor's notes."""

import pathlib

from bigrec_jax import config as config_lib
from bigrec_jax.data.prepared import prepare
from bigrec_jax.stages import session
from bigrec_jax.workdir import processes


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
    session.say(f"prepare: {run.paths.data} is current")
    return

  def work() -> None:
    for line in prepare.prepare(data, prompt, run.paths):
      session.say(f"prepare: {line}")

  processes.on_first(work)
