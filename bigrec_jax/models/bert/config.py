"""The shape of a BERT, read from config.json."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bigrec_jax import errors
from bigrec_jax.models.hf_config import Reader

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")


@dataclasses.dataclass(frozen=True)
class BertConfig:
  """Sizes and constants of the network; hashable, so static under jit.

  Names are those of Hugging Face config.json.
  """

  vocab_size: int
  hidden_size: int
  intermediate_size: int
  num_hidden_layers: int
  num_attention_heads: int
  max_position_embeddings: int
  type_vocab_size: int
  layer_norm_eps: float
  hidden_act: str

  def __post_init__(self):
    if self.hidden_size % self.num_attention_heads:
      raise errors.UserError(
        f"hidden_size: {self.hidden_size} found, a multiple of"
        f" num_attention_heads {self.num_attention_heads} expected"
      )

  @classmethod
  def from_hf(cls, values: Mapping[str, Any], source: str) -> "BertConfig":
    """Reads a config.json of transformers 4 or 5.

    Args:
      values: the parsed file.
      source: the file's name, for error messages.

    Raises:
      UserError: it uses something that this network does not have.
    """
    reader = Reader(values, source)
    reader.choice("model_type", ("bert",))
    reader.expect("position_embedding_type", ("absolute",))
    reader.expect("is_decoder", (False,))
    reader.expect("embedding_size", (values.get("hidden_size"),))
    reader.expect("quantization_config", (), " (load the unquantised weights)")
    act = values.get("hidden_act", "gelu")
    if act not in ACTIVATIONS:
      raise reader.error("hidden_act", f"one of {', '.join(ACTIVATIONS)}")
    return cls(
      vocab_size=reader.integer("vocab_size", 30522),
      hidden_size=reader.integer("hidden_size", 768),
      intermediate_size=reader.integer("intermediate_size", 3072),
      num_hidden_layers=reader.integer("num_hidden_layers", 12),
      num_attention_heads=reader.integer("num_attention_heads", 12),
      max_position_embeddings=reader.integer("max_position_embeddings", 512),
      type_vocab_size=reader.integer("type_vocab_size", 2),
      layer_norm_eps=float(values.get("layer_norm_eps", 1e-12)),
      hidden_act=act,
    )
