"""What a finished workdir holds: base, adapter, embeddings; found and checked.

Nothing is made: an error names the mode that does.
"""

import pathlib
import warnings

import numpy as np

from bigrec_jax import errors
from bigrec_jax.rankers.distance import stored_embeddings
from bigrec_jax.recommend import adapter_origin, loaded as loaded_lib
from bigrec_jax.workdir import contents, given_models, records

WEIGHTS_FILE = "adapter_model.safetensors"


def check_content(
  loaded: loaded_lib.Loaded, stage: str, mode: str, model: str = ""
) -> None:
  """Raises UserError where an artefact's files aren't what was written.

  Args:
    loaded: configuration and workdir.
    stage: of the artefact's record.
    mode: that makes it again.
    model: of CF.
  """
  lines = contents.altered(loaded.paths, [stage])
  if lines:
    named = f" --config.cf.model={model}" if model else ""
    raise errors.UserError(
      f"{'; '.join(lines)}; --mode={mode}{named} makes it again"
    )


def check_base(loaded: loaded_lib.Loaded) -> None:
  """Raises UserError where there is no base, or not the one that was made."""
  check_content(loaded, "data", "prepare")
  if given := loaded.config.model.path:
    given_models.check_base(given)
  if given := loaded.config.model.tokenizer:
    given_models.check_tokenizer(given)
  if loaded.base_dir.exists():
    if loaded.config.model.is_gguf:
      check_content(loaded, "gguf", "embed")
    elif not loaded.config.model.path:
      check_content(loaded, "base", "pretrain")
    return
  mode = "embed" if loaded.config.model.is_gguf else "pretrain"
  raise errors.UserError(
    f"{loaded.base_dir}: no base found; --mode={mode} makes it"
  )


def find_adapter(loaded: loaded_lib.Loaded) -> pathlib.Path:
  """Returns the workdir's own adapter, else the one of `model.adapter`.

  Nothing is trained.

  Raises:
    UserError: there is none, or it was trained on another base or prompt.
  """
  own = loaded.paths.adapter
  made_from = records.read(loaded.paths.record("adapter"))
  if made_from is None or not (own / WEIGHTS_FILE).exists():
    given = loaded.config.model.adapter
    if not given:
      raise errors.UserError(
        f"{own}: no finished adapter found; --mode=train makes it"
      )
    given_models.check_adapter(given)
    folder = pathlib.Path(given)
    if note := adapter_origin.check(loaded, folder):
      warnings.warn(note, stacklevel=2)
    return folder
  check_content(loaded, "adapter", "train")
  if made_from.get("base") != loaded.base_fingerprint:
    raise errors.UserError(
      f"{own}: trained on base {made_from.get('base')},"
      f" {loaded.base_fingerprint} ({loaded.base_dir},"
      f" {loaded.config.model.dtype}, quantization"
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
  check_content(loaded, "embeddings", "embed")
  return stored_embeddings.load(
    directory, loaded.catalogue, loaded.encoder_fingerprint
  )
