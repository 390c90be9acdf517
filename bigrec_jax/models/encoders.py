"""Text encoders by the `model_type` of config.json.

A language model is one, by its last state. A family of encoders is a package
beside `llama/` that offers what `protocol.EncoderFamily` says, and its name in
`FAMILIES`.
"""

import pathlib
from typing import Any

from jax.sharding import Mesh

from bigrec_jax import errors
from bigrec_jax.config import ModelConfig
from bigrec_jax.data.text import tokenization
from bigrec_jax.models import bert, hf_import, last_state, registry, sentences
from bigrec_jax.models.hf_config import Reader
from bigrec_jax.models.protocol import EncoderFamily, TextEncoder
from bigrec_jax.workdir import storage

FAMILIES: tuple[EncoderFamily, ...] = (bert,)


def model_types() -> tuple[str, ...]:
  """Returns what `model_type` of an encoder may be."""
  own = tuple(name for family in FAMILIES for name in family.MODEL_TYPES)
  return own + registry.model_types()


def width(directory: str | pathlib.Path) -> int:
  """Returns the length of the vectors of an encoder's directory."""
  file, values = _config(directory)
  return Reader(values, str(file)).integer("hidden_size")


def load(
  directory: str | pathlib.Path,
  model: ModelConfig,
  batch_size: int,
  mesh: Mesh,
  fingerprint: str,
) -> TextEncoder:
  """Loads the encoder of a sentence-transformers or Hugging Face directory.

  Args:
    directory: with config.json (or modules.json that says where it is),
      safetensors and the tokenizer's files.
    model: how a language model is held and run; other encoders are held in
      float32.
    batch_size: rows per program.
    mesh: where it runs; rows are split over it.
    fingerprint: names all that its vectors depend on.

  Raises:
    UserError: it is of no family here, or its files ask for what its family
      does not have.
  """
  file, values = _config(directory)
  kind = Reader(values, str(file)).choice("model_type", model_types())
  for family in FAMILIES:
    if kind in family.MODEL_TYPES:
      return family.load(pathlib.Path(directory), batch_size, mesh, fingerprint)
  if (modules := pathlib.Path(directory) / sentences.MODULES_FILE).is_file():
    raise errors.UserError(
      f"{modules}: pooling of a {kind} model found; of language models only"
      " the last token's state is known here, without this file"
    )
  arch, params = hf_import.load_base(directory, model, mesh)
  network = registry.build(arch, model, None, mesh)
  return last_state.LastState(
    network,
    network.prepare(params),
    tokenization.load_tokenizer(directory, directory),
    batch_size,
    mesh,
    fingerprint,
  )


def _config(
  directory: str | pathlib.Path,
) -> tuple[pathlib.Path, dict[str, Any]]:
  file = sentences.network_directory(pathlib.Path(directory)) / "config.json"
  values = storage.read_json(file)
  if not isinstance(values, dict):
    raise errors.UserError(f"{file}: a JSON object expected")
  return file, values
