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
from bigrec_jax.models.protocol import Architecture

_ARCHITECTURES = {
  "llama": "LlamaForCausalLM",
  "mistral": "MistralForCausalLM",
  "qwen2": "Qwen2ForCausalLM",
}
MODEL_TYPES = tuple(_ARCHITECTURES)
# What the Hugging Face config classes assume where config.json is silent.
_DEFAULT_MAX_POSITIONS = {"llama": 2048, "mistral": 131072, "qwen2": 32768}
_ROPE_FIELDS = {
  "linear": ("factor",),
  "llama3": (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
  ),
}


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """How rotary frequencies are stretched beyond the trained context.

  Attributes:
    rope_type: `linear` (all frequencies over `factor`) or `llama3` (low ones
      only, with a smooth passage).
    factor: the stretch.
    low_freq_factor: `llama3`: wavelengths above the original context over
      this are stretched in full.
    high_freq_factor: `llama3`: wavelengths below the original context over
      this are left alone.
    original_max_position_embeddings: `llama3`: the trained context.
  """

  rope_type: str
  factor: float
  low_freq_factor: float = 0.0
  high_freq_factor: float = 0.0
  original_max_position_embeddings: int = 0


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
    _refuse_unsupported(reader, model_type)
    heads = reader.integer("num_attention_heads")
    width = reader.integer("hidden_size")
    bias = bool(values.get("attention_bias", False))
    qwen = model_type == "qwen2"
    eos = values.get("eos_token_id")
    eos = () if eos is None else eos
    return cls(
      model_type=model_type,
      vocab_size=reader.integer("vocab_size"),
      hidden_size=width,
      intermediate_size=reader.integer("intermediate_size"),
      num_hidden_layers=reader.integer("num_hidden_layers"),
      num_attention_heads=heads,
      num_key_value_heads=reader.integer("num_key_value_heads", heads),
      head_dim=reader.integer("head_dim", width // heads),
      max_position_embeddings=reader.integer(
        "max_position_embeddings", _DEFAULT_MAX_POSITIONS[model_type]
      ),
      rms_norm_eps=float(values.get("rms_norm_eps", 1e-6)),
      rope_theta=_rope_theta(reader),
      rope_scaling=_rope_scaling(reader),
      tie_word_embeddings=bool(values.get("tie_word_embeddings", False)),
      qkv_bias=qwen or bias,
      o_bias=bias and not qwen,
      mlp_bias=bool(values.get("mlp_bias", False)),
      initializer_range=float(values.get("initializer_range", 0.02)),
      bos_token_id=values.get("bos_token_id"),
      eos_token_ids=tuple(eos) if isinstance(eos, (list, tuple)) else (eos,),
      pad_token_id=values.get("pad_token_id"),
    )

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
      scaling = dataclasses.asdict(self.rope_scaling)
      kind = scaling["rope_type"]
      kept = ("rope_type", *_ROPE_FIELDS[kind])
      values["rope_scaling"] = {key: scaling[key] for key in kept}
    if self.model_type == "llama":
      values["attention_bias"] = self.qkv_bias
      values["mlp_bias"] = self.mlp_bias
    elif self.model_type == "mistral":
      values["sliding_window"] = None
    else:
      values["use_sliding_window"] = False
    return values


def _refuse_unsupported(reader: Reader, model_type: str) -> None:
  reader.expect("hidden_act", ("silu", "swish"))
  reader.expect("attention_dropout", (0, 0.0))
  reader.expect("partial_rotary_factor", (1, 1.0))
  reader.expect("quantization_config", (), " (load the unquantised weights)")
  for kind in reader.values.get("layer_types") or ():
    if kind != "full_attention":
      raise reader.error("layer_types", "only full_attention")
  if model_type == "qwen2":
    reader.expect("use_sliding_window", (False,))
  elif model_type == "mistral":
    reader.expect(
      "sliding_window",
      (),
      " (null: set it so if no text is longer than the window)",
    )
  if model_type != "llama":
    reader.expect("mlp_bias", (False,))
    reader.expect("attention_bias", (False,))


def _rope_parameters(reader: Reader) -> tuple[str, dict[str, Any]]:
  """Returns the key and value of the rotary settings, of either version."""
  for key in ("rope_parameters", "rope_scaling"):
    value = reader.values.get(key)
    if value is not None:
      if not isinstance(value, Mapping):
        raise reader.error(key, "an object or null")
      return key, dict(value)
  return "rope_scaling", {}


def _rope_theta(reader: Reader) -> float:
  _, parameters = _rope_parameters(reader)
  theta = parameters.get("rope_theta", reader.values.get("rope_theta", 10000.0))
  return float(theta)


def _rope_scaling(reader: Reader) -> RopeScaling | None:
  key, parameters = _rope_parameters(reader)
  kind = parameters.get("rope_type", parameters.get("type", "default"))
  if kind == "default":
    return None
  if kind not in _ROPE_FIELDS:
    raise reader.error(key, "rope_type default, linear or llama3")
  fields = _ROPE_FIELDS[kind]
  if missing := [name for name in fields if name not in parameters]:
    raise reader.error(key, f"a value for {missing[0]}")
  return RopeScaling(kind, **{name: parameters[name] for name in fields})
