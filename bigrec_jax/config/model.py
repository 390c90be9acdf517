"""Sections `model`, `lora` and `mesh`: the network and where it lies."""

import dataclasses
from typing import Annotated

from bigrec_jax import errors
from bigrec_jax.config import checks

DTYPES = ("float32", "bfloat16")
QUANTIZATIONS = ("none", "int8", "nf4")
# Of a mesh; -1 = what is left.
_AXIS = checks.Range(1, 2**20, also=-1)
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_LORA_TARGETS = (*_ATTENTION, "gate_proj", "up_proj", "down_proj")


@dataclasses.dataclass(frozen=True)
class ArchConfig:
  """Shape of a base without a directory; names as in HF config.json."""

  hidden_size: Annotated[int, checks.Range(1, 2**20)]
  intermediate_size: Annotated[int, checks.Range(1, 2**20)]
  num_hidden_layers: Annotated[int, checks.Range(1, 2**12)]
  num_attention_heads: Annotated[int, checks.Range(1, 2**16)]
  num_key_value_heads: Annotated[int, checks.Range(1, 2**16)]
  max_position_embeddings: Annotated[int, checks.SOME]
  rope_theta: Annotated[float, checks.Range(1e-6, 1e12)]
  rms_norm_eps: Annotated[float, checks.Range(0, 1)]
  tie_word_embeddings: bool


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The frozen base model: where it is and how it is held and run."""

  path: str
  tokenizer: str
  adapter: str
  dtype: str
  quantization: str
  scan_layers: bool
  remat: str
  attention: str
  arch: ArchConfig

  @property
  def is_gguf(self) -> bool:
    """Whether `path` names a GGUF file and not a directory."""
    return self.path.lower().endswith(".gguf")

  def __post_init__(self):
    checks.choice("model.dtype", self.dtype, DTYPES)
    checks.choice("model.quantization", self.quantization, QUANTIZATIONS)
    checks.choice("model.remat", self.remat, ("none", "full", "dots"))
    checks.choice(
      "model.attention", self.attention, ("auto", "xla", "cudnn", "splash")
    )


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Low-rank adapters (Hu et al. 2021), as PEFT names them."""

  rank: Annotated[int, checks.Range(1, 2**16)]
  alpha: Annotated[float, checks.Range(0, 1e6)]
  dropout: Annotated[float, checks.FRACTION]
  target_modules: tuple[str, ...]

  def __post_init__(self):
    for name in self.target_modules:
      checks.choice("lora.target_modules", name, _LORA_TARGETS)
    if not self.target_modules:
      raise errors.UserError(
        f"config.lora.target_modules: empty, some of {_LORA_TARGETS} expected"
      )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Axis sizes of the device mesh; -1 (one at most) = what is left."""

  data: Annotated[int, _AXIS]
  fsdp: Annotated[int, _AXIS]
  tensor: Annotated[int, _AXIS]

  def __post_init__(self):
    sizes = (self.data, self.fsdp, self.tensor)
    if any(s < 1 and s != -1 for s in sizes) or sizes.count(-1) > 1:
      raise errors.UserError(
        f"config.mesh: {sizes} found, positive sizes and one -1 expected"
      )
