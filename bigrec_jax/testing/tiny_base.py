"""A tiny random LLaMA with the store's tokenizer, as `model.path` takes it."""

import pathlib

from bigrec_jax import models
from bigrec_jax.config import ArchConfig
from bigrec_jax.devices import sharding
from bigrec_jax.models import hf_export, hf_import
from bigrec_jax.testing import store

ARCH = ArchConfig(
  hidden_size=32,
  intermediate_size=48,
  num_hidden_layers=2,
  num_attention_heads=4,
  num_key_value_heads=2,
  max_position_embeddings=512,
  rope_theta=10000.0,
  rms_norm_eps=1e-5,
  tie_word_embeddings=True,
)


def write(directory: pathlib.Path, seed: int = 0) -> pathlib.Path:
  """Writes config.json, model.safetensors and the tokenizer; returns where.

  Args:
    directory: replaced as a whole.
    seed: of the weights.
  """
  words = directory.with_name(f"{directory.name}.tokenizer")
  tokenizer = store.tokenizer(words)
  arch = models.from_arch(ARCH, tokenizer.vocab_size)
  mesh = sharding.single_device_mesh()
  params = hf_import.init_base(arch, seed, "float32", mesh)
  hf_export.save_base(directory, arch, params, words)
  return directory
