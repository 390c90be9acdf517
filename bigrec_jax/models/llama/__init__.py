"""The LLaMA family: LLaMA 1/2/3.x, TinyLlama, Mistral, Qwen2 and Qwen2.5.

What `protocol.Family` asks of a family, and no more, is here.
"""

import jax.numpy as jnp
from jax.sharding import Mesh

from bigrec_jax.config import LoraConfig, ModelConfig
from bigrec_jax.models.llama.config import MODEL_TYPES, LlamaConfig
from bigrec_jax.models.llama.network import Llama
from bigrec_jax.models.llama.weights import base_entries, lora_entries

__all__ = [
  "MODEL_TYPES",
  "base_entries",
  "from_arch",
  "lora_entries",
  "network",
  "read",
]

read = LlamaConfig.from_hf
from_arch = LlamaConfig.from_arch


def network(
  arch: LlamaConfig,
  model: ModelConfig,
  lora: LoraConfig | None,
  dtype: jnp.dtype,
  attention: str,
  mesh: Mesh,
  unrolled: bool,
) -> Llama:
  """Returns the network; see `protocol.Family`."""
  return Llama(
    config=arch,
    lora=lora,
    dtype=dtype,
    scan_layers=model.scan_layers,
    remat=model.remat,
    attention=attention,
    mesh=mesh,
    unrolled=unrolled,
  )
