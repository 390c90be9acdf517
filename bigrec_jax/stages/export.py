"""The trained adapter, and the base with the adapter merged in."""

import pathlib
import shutil

from bigrec_jax import config as config_lib
from bigrec_jax.stages import graph, train
from bigrec_jax.stages.session import Asked, Session, say
from bigrec_jax.workdir import faults, locks, processes


def run(
  config: config_lib.Config, workdir: pathlib.Path, asked: Asked | None = None
) -> None:
  """Writes `export/adapter` (PEFT) and `export/merged` (Hugging Face).

  Raises:
    UserError: there is no adapter to export, or the one named can't be used.
  """
  Session(config, workdir, asked).make(STAGE, reads=True)


def _build(session: Session, _: graph.Inputs) -> None:
  from bigrec_jax.models import hf_export, own_weights

  adapter, target = train.used(session), session.paths.export
  lora_config, lora = session.load_adapter(adapter.directory)

  def copy() -> None:
    with faults.writing(target, target):
      if target.exists():
        shutil.rmtree(target)
      shutil.copytree(adapter.directory, target / "adapter")

  with locks.output(target, "export"):
    processes.on_first(copy)
    hf_export.save_merged(
      target / "merged",
      session.base.model.config,
      session.base.params,
      lora_config,
      session.base.model.prepare(own_weights.lora_of(lora)),
      session.tokenizer_dir,
    )
  say(f"export: {target / 'adapter'} and {target / 'merged'}")


STAGE = graph.Stage(
  name="export",
  mode="export",
  where=lambda session: session.paths.export,
  needs=train.needed,
  differs=lambda session: [graph.EVERY_TIME],
  build=_build,
  check=train.check_used,
  batches=(),
)
