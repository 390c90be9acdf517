"""The shape of a LLaMA-family model, read from and written as config.json.

LLaMA 1/2/3.x, TinyLlama, Mistral without a window and Qwen2/2.5 differ in
these fields only, so one class and one network cover them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bigrec_jax import errors
from bigrec_jax.config import ArchConfig
from bigrec_jax.models.hf_config import Reader
from bigrec_jax.models.llama import known_keys, rope_config
from bigrec_jax.models.llama.rope import RopeScaling
from bigrec_jax.models.protocol import Architecture

__all__ = ["MODEL_TYPES", "LlamaConfig", "RopeScaling"]

_ARCHITECTURES = {
  "llama": "LlamaForCausalLM",
  "mistral": "MistralForCausalLM",
  "qwen2": "Qwen2ForCausalLM",
}
MODEL_TYPES = tuple(_ARCHITECTURES)
# What the Hugging Face config classes assume where config.json is silent.
_DEFAULT_MAX_POSITIONS = {"llama": 2048, "mistral": 131072, "qwen2": 32768}
# Above it no model is, and the table of frequencies would fill the memory.
_MOST_HEAD_DIM, _MOST_LAYERS = 1 << 16, 10_000


@dataclasses.dataclass(frozen=True)
class LlamaConfig(Architecture):
  """Sizes and constants of the network.

  `qkv_bias`, `o_bias` and `mlp_bias` say which projections add a bias.
  """

  rms_norm_eps: float
  rope_theta: float
  rope_scaling: RopeScaling | None
  qkv_bias: bool
  o_bias: bool
  mlp_bias: bool

  def __post_init__(self):
    if self.num_attention_heads % self.num_key_value_heads:
      raise errors.UserError(
        f"num_attention_heads: {self.num_attention_heads} found, a multiple of"
        f" num_key_value_heads {self.num_key_value_heads} expected"
      )
    if self.head_dim % 2:
      raise errors.UserError(
        f"head_dim: {self.head_dim} found, an even number expected (rotary"
        " embedding turns pairs)"
      )

  @classmethod
  def from_arch(cls, arch: ArchConfig, vocab_size: int) -> "LlamaConfig":
    """Returns the LLaMA of `config.model.arch`, for training from scratch."""
    if arch.hidden_size % arch.num_attention_heads:
      raise errors.UserError(
        f"config.model.arch.hidden_size: {arch.hidden_size} found, a multiple"
        f" of num_attention_heads {arch.num_attention_heads} expected"
      )
    return cls(
      model_type="llama",
      vocab_size=vocab_size,
      head_dim=arch.hidden_size // arch.num_attention_heads,
      rope_scaling=None,
      qkv_bias=False,
      o_bias=False,
      mlp_bias=False,
      initializer_range=0.02,
      bos_token_id=1,
      eos_token_ids=(2,),
      pad_token_id=None,
      **dataclasses.asdict(arch),
    )

  @classmethod
  def from_hf(
    cls, values: Mapping[str, Any], source: str = "config.json"
  ) -> "LlamaConfig":
    """Reads a config.json of transformers 4 or 5.

    Args:
      values: the parsed file.
      source: the file's name, for error messages.

    Raises:
      UserError: the model is of another family or uses something that this
        network does not have; nothing is dropped in silence.
    """
    reader = Reader(values, source)
    model_type = reader.choice("model_type", MODEL_TYPES)
    known_keys.check(reader, model_type)
    heads = reader.integer("num_attention_heads")
    width = reader.integer("hidden_size")
    if reader.values.get("head_dim") is None and width % heads:
      raise reader.error(
        "hidden_size", f"a multiple of num_attention_heads {heads}"
      )
    head_dim = reader.integer("head_dim", width // heads)
    layers = reader.integer("num_hidden_layers")
    if head_dim > _MOST_HEAD_DIM:
      raise reader.error("head_dim", f"at most {_MOST_HEAD_DIM}")
    if layers > _MOST_LAYERS:
      raise reader.error("num_hidden_layers", f"at most {_MOST_LAYERS}")
    positions = reader.integer(
      "max_position_embeddings", _DEFAULT_MAX_POSITIONS[model_type]
    )
    theta, scaling = rope_config.read(reader, head_dim, positions)
    bias = reader.flag("attention_bias")
    qwen = model_type == "qwen2"
    found: dict[str, Any] = dict(
      model_type=model_type,
      vocab_size=reader.integer("vocab_size"),
      hidden_size=width,
      intermediate_size=reader.integer("intermediate_size"),
      num_hidden_layers=layers,
      num_attention_heads=heads,
      num_key_value_heads=reader.integer("num_key_value_heads", heads),
      head_dim=head_dim,
      max_position_embeddings=positions,
      rms_norm_eps=reader.number("rms_norm_eps", 1e-6),
      rope_theta=theta,
      rope_scaling=scaling,
      tie_word_embeddings=reader.flag("tie_word_embeddings"),
      qkv_bias=qwen or bias,
      o_bias=bias and not qwen,
      mlp_bias=reader.flag("mlp_bias"),
      initializer_range=reader.number("initializer_range", 0.02),
      bos_token_id=reader.token("bos_token_id"),
      eos_token_ids=reader.tokens("eos_token_id"),
      pad_token_id=reader.token("pad_token_id"),
    )
    try:
      return cls(**found)
    except errors.UserError as error:  # It knows of no file.
      raise errors.UserError(f"{source}: {error}") from None

  def to_hf(self, dtype: str) -> dict[str, Any]:
    """Returns config.json such that transformers builds the same network.

    Args:
      dtype: of the weights beside it, `float32` or `bfloat16`.
    """
    eos = list(self.eos_token_ids)
    values: dict[str, Any] = {
      "architectures": [_ARCHITECTURES[self.model_type]],
      "model_type": self.model_type,
      "hidden_act": "silu",
      "torch_dtype": dtype,
      "eos_token_id": eos[0] if len(eos) == 1 else (eos or None),
    }
    for name in (
      "vocab_size",
      "hidden_size",
      "intermediate_size",
      "num_hidden_layers",
      "num_attention_heads",
      "num_key_value_heads",
      "head_dim",
      "max_position_embeddings",
      "rms_norm_eps",
      "rope_theta",
      "tie_word_embeddings",
      "initializer_range",
      "bos_token_id",
      "pad_token_id",
    ):
      values[name] = getattr(self, name)
    if self.rope_scaling is not None:
      values["rope_scaling"] = rope_config.to_hf(self.rope_scaling)
    if self.model_type == "llama":
      values["attention_bias"] = self.qkv_bias
      values["mlp_bias"] = self.mlp_bias
    elif self.model_type == "mistral":
      values["sliding_window"] = None
    else:
      values["use_sliding_window"] = False
    return values
