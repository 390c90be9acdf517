"""Sections `pretrain` and `train`."""

import dataclasses
from typing import Annotated

from bigrec_jax import errors
from bigrec_jax.config import checks

_MOST_WALKS = 1000.0
OBJECTIVES = (
  "language_model",
  "legal_tokens",
  "item_softmax",
  "item_hinge",
  "heads",
  "contrastive",
)


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
  """Full-parameter training of a small base from scratch."""

  vocab_size: Annotated[int, checks.Range(260, 2**24)]
  num_steps: Annotated[int, checks.ANY]
  batch_size: Annotated[int, checks.ROWS]
  max_length: Annotated[int, checks.Range(2, 2**24)]
  learning_rate: Annotated[float, checks.Range(0, 1e3)]
  warmup_steps: Annotated[int, checks.ANY]
  save_every_steps: Annotated[int, checks.ANY]


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig:
  """Terms beside the language model's loss (training/contrastive.py)."""

  target_weight: Annotated[float, checks.FRACTION]
  user_weight: Annotated[float, checks.FRACTION]
  temperature: Annotated[float, checks.Range(1e-3, 1e3)]
  pooling: str
  view: str

  def __post_init__(self):
    checks.choice("train.contrastive.pooling", self.pooling, ("mean", "last"))
    checks.choice(
      "train.contrastive.view", self.view, ("context", "dropout", "words")
    )
    if self.target_weight + self.user_weight >= 1:
      raise errors.UserError(
        f"config.train.contrastive: target_weight={self.target_weight} and"
        f" user_weight={self.user_weight} found, a sum below 1 expected: the"
        " rest is the language model's"
      )


@dataclasses.dataclass(frozen=True)
class FirstConfig:
  """A fine-tuning on texts alone, which the other one goes on from."""

  num_epochs: Annotated[int, checks.ANY]
  learning_rate: Annotated[float, checks.RATE]
  objective: str

  def __post_init__(self):
    checks.choice("train.first.objective", self.objective, OBJECTIVES)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """LoRA fine-tuning."""

  batch_size: Annotated[int, checks.ROWS]
  micro_batch_size: Annotated[int, checks.ROWS]
  num_epochs: Annotated[int, checks.SOME]
  learning_rate: Annotated[float, checks.RATE]
  warmup_steps: Annotated[int, checks.ANY]
  schedule: str
  max_length: Annotated[int, checks.Range(2, 2**24)]
  train_on_inputs: bool
  early_stopping_patience: Annotated[int, checks.ANY]
  shuffle: bool
  packing: bool
  length_buckets: Annotated[tuple[int, ...], checks.SOME]
  share_header: bool
  max_grad_norm: Annotated[float, checks.Range(1e-30, 1e30)]
  weight_decay: Annotated[float, checks.Range(0, 1e3)]
  own_l2: Annotated[float, checks.Range(0, 1e3)]
  loss_chunk: Annotated[int, checks.SOME]
  objective: str
  temperature: Annotated[float, checks.Range(1e-3, 1e3)]
  adaptive_temperature: bool
  contrastive: ContrastiveConfig
  also: tuple[str, ...]
  first: FirstConfig
  keep_checkpoints: Annotated[int, checks.SOME]
  save_every_steps: Annotated[int, checks.ANY]
  profile_steps: Annotated[int, checks.ANY]

  def __post_init__(self):
    checks.choice("train.schedule", self.schedule, ("linear", "cosine"))
    checks.choice("train.objective", self.objective, OBJECTIVES)
    _ = self.mixed  # Checked.
    if self.objective != "language_model" and self.train_on_inputs:
      raise errors.UserError(
        f"config.train.objective: {self.objective} found with"
        " train_on_inputs=True; its loss is of answers alone, so False expected"
        " there"
      )
    bent = self.adaptive_temperature or self.temperature != 1
    if self.objective != "legal_tokens" and bent:
      raise errors.UserError(
        f"config.train.objective: {self.objective} found with temperature="
        f"{self.temperature} and adaptive_temperature="
        f"{self.adaptive_temperature}; only legal_tokens has a temperature, so"
        " 1.0 and False expected there"
      )

  @property
  def mixed(self) -> list[tuple[str, float]]:
    """Folders and weights of `also`; a weight that isn't said is 1.

    Raises:
      UserError: a weight is no positive number.
    """
    found = []
    for entry in filter(None, self.also):
      folder, colon, word = entry.rpartition(":")
      if not colon:
        folder, word = entry, "1"
      weights = checks.numbers_in(word)
      if len(weights) != 1 or not 0 < weights[0] <= _MOST_WALKS:
        raise errors.UserError(
          f"config.train.also: {entry!r} found, a workdir, or a workdir and how"
          " often an epoch goes through its rows (workdir:0.5), expected"
        )
      found.append((folder, weights[0]))
    return found
