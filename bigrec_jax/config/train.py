"""Sections `pretrain` and `train`."""

import dataclasses

from bigrec_jax.config import checks


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
  """Full-parameter training of a small base from scratch."""

  vocab_size: int
  num_steps: int
  batch_size: int
  max_length: int
  learning_rate: float
  warmup_steps: int
  save_every_steps: int

  def __post_init__(self):
    checks.at_least("pretrain.save_every_steps", self.save_every_steps, 0)
    checks.at_least("pretrain.vocab_size", self.vocab_size, 260)
    checks.at_least("pretrain.num_steps", self.num_steps, 0)
    checks.at_least("pretrain.batch_size", self.batch_size, 1)


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
