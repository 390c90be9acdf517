"""The families of language models, by the `model_type` of config.json.

A new family is a package beside `llama/` that offers what `protocol.Family`
says, and its name in `FAMILIES`.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from bigrec_jax import errors
from bigrec_jax.config import ArchConfig, LoraConfig, ModelConfig
from bigrec_jax.models import attention, layout, llama, stacking
from bigrec_jax.models.hf_config import Reader
from bigrec_jax.models.protocol import Architecture, Family, LanguageModel
from bigrec_jax.workdir import storage

FAMILIES: tuple[Family, ...] = (llama,)
# What a base trained from nothing is.
_FROM_SCRATCH: Family = llama


def model_types() -> tuple[str, ...]:
  """Returns what `model_type` of a base may be."""
  return tuple(name for family in FAMILIES for name in family.MODEL_TYPES)


def read_architecture(
  values: Mapping[str, Any], source: str = "config.json"
) -> Architecture:
  """Reads a config.json of transformers 4 or 5.

  Args:
    values: the parsed file.
    source: the file's name, for error messages.

  Raises:
    UserError: the model is of no family here or uses something that its
      network does not have; nothing is dropped in silence.
  """
  kind = Reader(values, source).choice("model_type", model_types())
  return _of(kind).read(values, source)


def read_config(directory: str | pathlib.Path) -> Architecture:
  """Reads `config.json` of a Hugging Face model directory."""
  file = pathlib.Path(directory) / "config.json"
  values = storage.read_json(file)
  if not isinstance(values, dict):
    raise errors.UserError(f"{file}: a JSON object expected")
  return read_architecture(values, str(file))


def from_arch(arch: ArchConfig, vocab_size: int) -> Architecture:
  """Returns the shape of `config.model.arch`, for training from scratch."""
  return _FROM_SCRATCH.from_arch(arch, vocab_size)


def base_entries(arch: Architecture) -> tuple[layout.Entry, ...]:
  """Returns every weight of a base, embedding first, head last."""
  return _of(arch.model_type).base_entries(arch)


def lora_entries(
  arch: Architecture, lora: LoraConfig
) -> tuple[layout.Entry, ...]:
  """Returns every weight of an adapter; names as PEFT writes them."""
  return _of(arch.model_type).lora_entries(arch, lora)


def build(
  arch: Architecture,
  model: ModelConfig,
  lora: LoraConfig | None,
  mesh: Mesh,
) -> LanguageModel:
  """Returns the network that `config.model` asks for, on a mesh.

  Args:
    arch: the shape, from config.json.
    model: dtype, scanning, remat and attention.
    lora: None = the base alone, e.g. for embeddings.
    mesh: the device mesh; its platform decides what attention `auto` is, and
      whether stacked layers run as a loop.
  """
  dtype = jnp.dtype(model.dtype)
  platform = mesh.devices.flat[0].platform
  chosen = attention.choose(model.attention, platform, dtype, arch.head_dim)
  family = _of(arch.model_type)
  unrolled = stacking.is_unrolled(
    mesh, model.scan_layers, arch.num_hidden_layers
  )
  return family.network(arch, model, lora, dtype, chosen, mesh, unrolled)


def _of(model_type: str) -> Family:
  return next(f for f in FAMILIES if model_type in f.MODEL_TYPES)
