"""The LLaMA family as Flax Linen: network, adapters, caches, files."""

import jax.numpy as jnp
from jax.sharding import Mesh

from bigrec_jax.config import LoraConfig, ModelConfig
from bigrec_jax.models import attention
from bigrec_jax.models.config import LlamaConfig
from bigrec_jax.models.llama import Llama


def build(
  llama_config: LlamaConfig,
  model_config: ModelConfig,
  lora: LoraConfig | None,
  mesh: Mesh,
) -> Llama:
  """Returns the network that `config.model` asks for, on a mesh.

  Args:
    llama_config: the shape, from config.json.
    model_config: dtype, scanning, remat and attention.
    lora: None = the base alone, e.g. for embeddings.
    mesh: the device mesh; its platform decides what attention `auto` is.
  """
  dtype = jnp.dtype(model_config.dtype)
  return Llama(
    config=llama_config,
    lora=lora,
    dtype=dtype,
    scan_layers=model_config.scan_layers,
    remat=model_config.remat,
    attention=attention.choose(
      model_config.attention,
      mesh.devices.flat[0].platform,
      dtype,
      llama_config.head_dim,
    ),
    mesh=mesh,
  )
