"""The trained adapter, and the base with the adapter merged in."""

import pathlib
import shutil

from bigrec_jax import config as config_lib
from bigrec_jax.stages import session, train
from bigrec_jax.workdir import processes


def run(config: config_lib.Config, workdir: pathlib.Path) -> None:
  """Writes `export/adapter` (PEFT) and `export/merged` (Hugging Face).

  Raises:
    UserError: there is no adapter to export, or the base is quantised.
  """
  from bigrec_jax.models import hf_export

  current = session.Session(config, workdir)
  adapter = train.existing_adapter(current)
  target = current.paths.export
  lora_config, lora = current.load_adapter(adapter.directory)

  def copy() -> None:
    if target.exists():
      shutil.rmtree(target)
    shutil.copytree(adapter.directory, target / "adapter")

  processes.on_first(copy)
  hf_export.save_merged(
    target / "merged",
    current.base.model.config,
    current.base.params,
    lora_config,
    lora,
    current.tokenizer_dir,
  )
  session.say(f"export: {target / 'adapter'} and {target / 'merged'}")
