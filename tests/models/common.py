"""Tiny models of every supported kind, shared by the tests of models/."""

import dataclasses
import functools

import jax
import numpy as np

from bigrec_jax import models
from bigrec_jax.config import ArchConfig, LoraConfig, MeshConfig, ModelConfig
from bigrec_jax.devices import sharding
from bigrec_jax.models import hf_import, lora
from bigrec_jax.models.llama.config import LlamaConfig, RopeScaling

ARCH = ArchConfig(
  hidden_size=24,
  intermediate_size=40,
  num_hidden_layers=3,
  num_attention_heads=4,
  num_key_value_heads=2,
  max_position_embeddings=128,
  rope_theta=10000.0,
  rms_norm_eps=1e-5,
  tie_word_embeddings=False,
)
VOCAB = 61
LLAMA = LlamaConfig.from_arch(ARCH, VOCAB)
LORA = LoraConfig(
  rank=3, alpha=6.0, dropout=0.1, target_modules=("q_proj", "v_proj")
)
LLAMA3_ROPE = RopeScaling(
  rope_type="llama3",
  factor=8.0,
  low_freq_factor=1.0,
  high_freq_factor=4.0,
  original_max_position_embeddings=16,
)
# One of each kind; together they cover every field.
KINDS = {
  "llama": LLAMA,
  "llama3": dataclasses.replace(
    LLAMA,
    rope_theta=500000.0,
    rope_scaling=LLAMA3_ROPE,
    tie_word_embeddings=True,
    num_key_value_heads=1,
  ),
  "llama_bias_linear": dataclasses.replace(
    LLAMA,
    qkv_bias=True,
    o_bias=True,
    mlp_bias=True,
    num_key_value_heads=4,
    rope_scaling=RopeScaling("linear", 2.5),
  ),
  "mistral": dataclasses.replace(LLAMA, model_type="mistral", head_dim=10),
  "qwen2": dataclasses.replace(
    LLAMA,
    model_type="qwen2",
    qkv_bias=True,
    tie_word_embeddings=True,
    rms_norm_eps=1e-6,
  ),
}


def model_config(**changes) -> ModelConfig:
  """The model section of the configuration, changed where asked."""
  values = dict(
    path="",
    tokenizer="",
    adapter="",
    dtype="float32",
    quantization="none",
    scan_layers=True,
    remat="none",
    attention="auto",
    arch=ARCH,
  )
  return ModelConfig(**{**values, **changes})


def mesh(data: int = 1, fsdp: int = 1, tensor: int = 1):
  """A mesh over the first forced CPU devices."""
  count = data * fsdp * tensor
  return sharding.make_mesh(
    MeshConfig(data, fsdp, tensor), jax.devices()[:count]
  )


def fill(tree, seed, scale):
  """Normal numbers in the shapes and shardings of an abstract tree.

  Drawn by numpy: compiling a generator per test would take seconds.
  """
  generator = np.random.default_rng(seed)

  def one(leaf):
    values = generator.normal(0, scale, leaf.shape).astype(leaf.dtype)
    return jax.device_put(values, leaf.sharding)

  return jax.tree.map(one, tree)


def noisy_params(config, on=None, scan_layers=True, seed=0):
  """Base weights none of which is zero or one, so that each one matters."""
  tree = hf_import.abstract_base(config, "float32", on or mesh(), scan_layers)
  tree = fill(tree, seed, 0.25)
  # Norms near one: else layers hardly move the residual stream.
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: leaf + np.float32(path[-1].key == "scale"), tree
  )


def noisy_adapter(config, settings, on=None, scan_layers=True, seed=5):
  """An adapter that changes the logits: B is not zero."""
  tree = lora.abstract(config, settings, on or mesh(), scan_layers)
  return fill(tree, seed, 0.3)


def build(config, lora=None, on=None, **changes):
  """The network on a mesh."""
  return models.build(config, model_config(**changes), lora, on or mesh())


def batch(rows=3, length=13, seed=2):
  """Tokens, positions and segment ids of unpadded rows."""
  generator = np.random.default_rng(seed)
  tokens = generator.integers(0, VOCAB, (rows, length)).astype(np.int32)
  positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
  return tokens, positions, np.ones((rows, length), np.int32)


@functools.partial(jax.jit, static_argnums=0)
def _forward(model, variables, inputs):
  hidden = model.apply(variables, *inputs, True)
  return model.apply(variables, hidden, method="logits")


def forward(model, variables, *inputs):
  """Logits of a whole pass; compiled once per model and shape."""
  return np.asarray(_forward(model, variables, inputs))
