"""The configuration as frozen dataclasses, checked once at the door.

`configs/common.py` holds every default; the classes here have none, so a key
that one side lacks is an error on start. Modules below `modes/` take the
section that they need, never the whole.
"""

import dataclasses
from typing import Any

import ml_collections

from bigrec_jax import config_checks as checks, errors
from bigrec_jax.config_cf import CF_MODELS, CfConfig
from bigrec_jax.config_plan import PlanConfig
from bigrec_jax.config_recommend import RecommendConfig

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_LORA_TARGETS = (*_ATTENTION, "gate_proj", "up_proj", "down_proj")


@dataclasses.dataclass(frozen=True)
class ArchConfig:
  """Shape of a base without a directory; names as in HF config.json."""

  hidden_size: int
  intermediate_size: int
  num_hidden_layers: int
  num_attention_heads: int
  num_key_value_heads: int
  max_position_embeddings: int
  rope_theta: float
  rms_norm_eps: float
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

  def __post_init__(self):
    checks.choice("model.dtype", self.dtype, ("float32", "bfloat16"))
    checks.choice(
      "model.quantization", self.quantization, ("none", "int8", "nf4")
    )
    checks.choice("model.remat", self.remat, ("none", "full", "dots"))
    checks.choice(
      "model.attention", self.attention, ("auto", "xla", "cudnn", "splash")
    )


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
  """Full-parameter training of a small base from scratch."""

  vocab_size: int
  num_steps: int
  batch_size: int
  max_length: int
  learning_rate: float
  warmup_steps: int

  def __post_init__(self):
    checks.at_least("pretrain.vocab_size", self.vocab_size, 260)
    checks.at_least("pretrain.num_steps", self.num_steps, 0)
    checks.at_least("pretrain.batch_size", self.batch_size, 1)


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Low-rank adapters (Hu et al. 2021), as PEFT names them."""

  rank: int
  alpha: float
  dropout: float
  target_modules: tuple[str, ...]

  def __post_init__(self):
    checks.at_least("lora.rank", self.rank, 1)
    if not 0 <= self.dropout < 1:
      raise errors.UserError(
        f"config.lora.dropout: {self.dropout} found, 0 <= dropout < 1 expected"
      )
    for name in self.target_modules:
      checks.choice("lora.target_modules", name, _LORA_TARGETS)
    if not self.target_modules:
      raise errors.UserError(
        f"config.lora.target_modules: empty, some of {_LORA_TARGETS} expected"
      )


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
  """Size and seed of the made-up world of format `synthetic`."""

  num_users: int
  num_items: int
  seed: int


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Raw files, their format, and which rows are used."""

  format: str
  raw_dir: str
  train: str
  valid: str
  test: str
  catalogue: str
  encoding: str
  max_history: int
  num_train: int
  num_valid: int
  num_test: int
  sample_seed: int
  export_json: bool
  synthetic: SyntheticConfig

  def __post_init__(self):
    checks.choice(
      "data.format",
      self.format,
      ("synthetic", "movielens", "amazon", "bigrec", "sequences"),
    )
    checks.choice(
      "data.encoding", self.encoding, ("auto", "utf-8", "iso-8859-1")
    )
    checks.at_least("data.max_history", self.max_history, 1)
    for key in ("num_train", "num_valid", "num_test"):
      value = getattr(self, key)
      if value != -1 and value < 1:
        raise errors.UserError(
          f"config.data.{key}: {value} found, -1 (all) or at least 1 expected"
        )


@dataclasses.dataclass(frozen=True)
class PromptConfig:
  """The words around the titles (bigrec_jax/prompts.py)."""

  style: str
  instruction: str
  history: str

  def __post_init__(self):
    checks.choice("prompt.style", self.style, ("consistent", "bigrec"))


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """LoRA fine-tuning."""

  batch_size: int
  micro_batch_size: int
  num_epochs: int
  learning_rate: float
  warmup_steps: int
  max_length: int
  train_on_inputs: bool
  early_stopping_patience: int
  shuffle: bool
  packing: bool
  length_buckets: tuple[int, ...]
  share_header: bool
  max_grad_norm: float
  weight_decay: float
  loss_chunk: int
  keep_checkpoints: int
  save_every_steps: int
  profile_steps: int

  def __post_init__(self):
    for key in ("batch_size", "micro_batch_size", "num_epochs", "max_length"):
      checks.at_least(f"train.{key}", getattr(self, key), 1)
    for key in ("warmup_steps", "early_stopping_patience", "save_every_steps"):
      checks.at_least(f"train.{key}", getattr(self, key), 0)
    checks.at_least("train.keep_checkpoints", self.keep_checkpoints, 1)
    checks.positive("train.learning_rate", self.learning_rate)


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
  """Decoding: beams by default, sampling by option."""

  split: str
  batch_size: int
  num_beams: int
  max_new_tokens: int
  length_penalty: float
  early_stopping: bool
  length_norm_includes_prompt: bool
  constrained: bool
  prompt_buckets: tuple[int, ...]
  sample: bool
  temperature: float
  top_k: int
  top_p: float

  def __post_init__(self):
    checks.choice("generate.split", self.split, ("valid", "test", "all"))
    for key in ("batch_size", "num_beams", "max_new_tokens"):
      checks.at_least(f"generate.{key}", getattr(self, key), 1)

  @property
  def splits(self) -> tuple[str, ...]:
    """The splits to decode, valid first."""
    return ("valid", "test") if self.split == "all" else (self.split,)


@dataclasses.dataclass(frozen=True)
class EmbedConfig:
  """Title and prediction embedding."""

  batch_size: int

  def __post_init__(self):
    checks.at_least("embed.batch_size", self.batch_size, 1)


@dataclasses.dataclass(frozen=True)
class PerSplit:
  """One value for valid and one for test."""

  valid: str
  test: str

  def get(self, split: str) -> str:
    """Returns the value of `valid` or `test`."""
    return {"valid": self.valid, "test": self.test}[split]


@dataclasses.dataclass(frozen=True)
class GroundConfig:
  """Grounding, injection and evaluation."""

  cutoffs: tuple[int, ...]
  duplicates: str
  gamma_grid: str
  injections: tuple[str, ...]
  protocols: tuple[str, ...]
  protocol_quirks: bool
  predictions: PerSplit
  cf_scores: PerSplit
  cf_model: str
  popularity: str
  batch_size: int
  block_items: int
  bootstrap_samples: int

  def __post_init__(self):
    checks.choice("ground.duplicates", self.duplicates, ("best", "last"))
    for name in self.injections:
      checks.choice(
        "ground.injections", name, ("none", "popularity", "cf", "popularity+cf")
      )
    for name in self.protocols:
      checks.choice("ground.protocols", name, ("bigrec", "single_gamma"))
    if not self.cutoffs or min(self.cutoffs) < 1:
      raise errors.UserError(
        f"config.ground.cutoffs: {self.cutoffs} found, positive ranks expected"
      )
    checks.at_least("ground.batch_size", self.batch_size, 1)
    checks.at_least("ground.block_items", self.block_items, 1)
    if self.cf_model:
      checks.choice("ground.cf_model", self.cf_model, CF_MODELS)


@dataclasses.dataclass(frozen=True)
class ReportConfig:
  """The HTML report."""

  num_examples: int


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Axis sizes of the device mesh; -1 (one at most) = what is left."""

  data: int
  fsdp: int
  tensor: int

  def __post_init__(self):
    sizes = (self.data, self.fsdp, self.tensor)
    if any(s < 1 and s != -1 for s in sizes) or sizes.count(-1) > 1:
      raise errors.UserError(
        f"config.mesh: {sizes} found, positive sizes and one -1 expected"
      )


@dataclasses.dataclass(frozen=True)
class Config:
  """The whole configuration."""

  seed: int
  model: ModelConfig
  pretrain: PretrainConfig
  lora: LoraConfig
  data: DataConfig
  prompt: PromptConfig
  train: TrainConfig
  generate: GenerateConfig
  embed: EmbedConfig
  ground: GroundConfig
  cf: CfConfig
  recommend: RecommendConfig
  report: ReportConfig
  plan: PlanConfig
  mesh: MeshConfig

  def to_dict(self) -> dict[str, Any]:
    """Returns plain nested dicts, e.g. for fingerprints and the report."""
    return dataclasses.asdict(self)


def from_config_dict(config: ml_collections.ConfigDict) -> Config:
  """Turns a ConfigDict into the frozen Config.

  Raises:
    UserError: a key is unknown, missing or holds a value out of its range.
  """
  return checks.build(Config, config, "")
