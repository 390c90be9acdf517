"""What a finished workdir holds: base, adapter, embeddings; found and checked.

Nothing is made: an error names the mode that does.
"""

import pathlib

import numpy as np

from bigrec_jax import errors
from bigrec_jax.rankers.distance import stored_embeddings
from bigrec_jax.recommend import loaded as loaded_lib
from bigrec_jax.workdir import fingerprints, given as given_paths, records

WEIGHTS_FILE = "adapter_model.safetensors"


def adapter_fingerprint(directory: pathlib.Path) -> str:
  """Names the content of a PEFT directory."""
  return fingerprints.of_folder(directory, "adapter_*")


def check_base(loaded: loaded_lib.Loaded) -> None:
  """Raises UserError where there is no base."""
  if loaded.base_dir.exists():
    return
  model = loaded.config.model
  if model.path and not model.is_gguf:
    raise errors.UserError(f"config.model.path: {model.path}: no such folder")
  mode = "embed" if model.is_gguf else "pretrain"
  raise errors.UserError(
    f"{loaded.base_dir}: no base found; --mode={mode} makes it"
  )


def find_adapter(loaded: loaded_lib.Loaded) -> pathlib.Path:
  """Returns the workdir's own adapter, else the one of `model.adapter`.

  Nothing is trained.

  Raises:
    UserError: there is none, or it was trained on another base or prompt.
  """
  own, record = loaded.paths.adapter, loaded.paths.record("adapter")
  if not (record.exists() and (own / WEIGHTS_FILE).exists()):
    given = loaded.config.model.adapter
    if not given:
      raise errors.UserError(
        f"{own}: no finished adapter found; --mode=train makes it"
      )
    return given_paths.folder("model.adapter", given, "a PEFT directory")
  made_from = records.read(record)
  if made_from.get("base") != loaded.base_fingerprint:
    raise errors.UserError(
      f"{own}: trained on base {made_from.get('base')},"
      f" {loaded.base_fingerprint}"
      f" ({loaded.base_dir}, {loaded.config.model.dtype}, quantization"
      f" {loaded.config.model.quantization}) found; the base that it was"
      " trained on expected, or --mode=train again"
    )
  if made_from.get("prompt") != loaded.config.to_dict()["prompt"]:
    raise errors.UserError(
      f"{own}: trained with other words in config.prompt than"
      f" {loaded.paths.config} has; those expected, or --mode=train again"
    )
  return own


def load_embeddings(loaded: loaded_lib.Loaded) -> np.ndarray:
  """Returns the title embeddings [I, D] float32.

  Raises:
    UserError: there are none, or they are of another base or catalogue.
  """
  directory = loaded.paths.embeddings
  if not directory.is_dir():
    raise errors.UserError(
      f"{directory}: no embeddings found; --mode=embed makes them"
    )
  return stored_embeddings.load(
    directory, loaded.catalogue, loaded.encoder_fingerprint
  )
