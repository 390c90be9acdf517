"""The networks that benchmarks run, as the config.json of their shapes."""

from typing import Any

from bigrec_jax.models import Architecture, registry

_LLAMA = dict(
  model_type="llama",
  vocab_size=32000,
  max_position_embeddings=2048,
  rms_norm_eps=1e-5,
  bos_token_id=1,
  eos_token_id=2,
)
_SIZES = {
  "15m": _LLAMA
  | dict(
    hidden_size=288,
    intermediate_size=768,
    num_hidden_layers=6,
    num_attention_heads=6,
    tie_word_embeddings=True,
  ),
  "135m": _LLAMA  # SmolLM2-135M; EOS is 2 in its Instruct version as well.
  | dict(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8192,
    rope_theta=1e5,
    tie_word_embeddings=True,
  ),
  "0.5b": dict(  # Qwen2-0.5B, but with the tokenizer's EOS.
    model_type="qwen2",
    vocab_size=151936,
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    max_position_embeddings=32768,
    rms_norm_eps=1e-6,
    rope_theta=1e6,
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=2,
  ),
  "7b": _LLAMA  # Llama-2-7B.
  | dict(
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
  ),
}
NAMES = tuple(_SIZES)


def shape(name: str) -> dict[str, Any]:
  """Returns the values of config.json of a size, one of `NAMES`."""
  return _SIZES[name]


def llama_config(name: str) -> Architecture:
  """Returns the network of a size, one of `NAMES`."""
  return registry.read_architecture(shape(name), f"size {name}")
