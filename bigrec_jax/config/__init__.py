"""The configuration as frozen dataclasses, checked once at the door.

`configs/common.py` holds every default; the classes here have none, so a key
that one side lacks is an error on start. Modules below `modes/` take the
section that they need, never the whole.
"""

import dataclasses
from typing import Annotated, Any

import ml_collections

from bigrec_jax import errors
from bigrec_jax.config import checks
from bigrec_jax.config.auxiliary import AuxiliaryConfig, WeightsConfig
from bigrec_jax.config.bm25 import Bm25Config
from bigrec_jax.config.cf import CF_MODELS, CfConfig
from bigrec_jax.config.chat import ChatConfig
from bigrec_jax.config.data import (
  ColumnsConfig,
  DataConfig,
  PromptConfig,
  SyntheticConfig,
)
from bigrec_jax.config.fairness import FairnessConfig
from bigrec_jax.config.generate import GenerateConfig
from bigrec_jax.config.ground import (
  EmbedConfig,
  EncoderConfig,
  GroundConfig,
  PerSplit,
  gammas,
)
from bigrec_jax.config.model import (
  DTYPES,
  QUANTIZATIONS,
  ArchConfig,
  LoraConfig,
  MeshConfig,
  ModelConfig,
)
from bigrec_jax.config.plan import PlanConfig
from bigrec_jax.config.recommend import RecommendConfig
from bigrec_jax.config.report import ReportConfig
from bigrec_jax.config.serve import ServeConfig
from bigrec_jax.config.task import (
  ChooseConfig,
  HeadsConfig,
  RsllmConfig,
  TaskConfig,
  TitleLikelihoodConfig,
  YesNoConfig,
)
from bigrec_jax.config.train import (
  ContrastiveConfig,
  PretrainConfig,
  TrainConfig,
)

__all__ = [
  "ArchConfig",
  "AuxiliaryConfig",
  "Bm25Config",
  "CF_MODELS",
  "CfConfig",
  "ChatConfig",
  "ChooseConfig",
  "ColumnsConfig",
  "Config",
  "ContrastiveConfig",
  "DTYPES",
  "DataConfig",
  "EmbedConfig",
  "EncoderConfig",
  "FairnessConfig",
  "GenerateConfig",
  "GroundConfig",
  "HeadsConfig",
  "LoraConfig",
  "MeshConfig",
  "ModelConfig",
  "PerSplit",
  "PlanConfig",
  "PretrainConfig",
  "PromptConfig",
  "QUANTIZATIONS",
  "RecommendConfig",
  "ReportConfig",
  "RsllmConfig",
  "ServeConfig",
  "SyntheticConfig",
  "TaskConfig",
  "TitleLikelihoodConfig",
  "TrainConfig",
  "WeightsConfig",
  "YesNoConfig",
  "from_config_dict",
  "gammas",
]


@dataclasses.dataclass(frozen=True)
class Config:
  """The whole configuration."""

  seed: Annotated[int, checks.Range(0, 2**32 - 1)]
  seeds: Annotated[tuple[int, ...], checks.Range(0, 2**32 - 1)]
  task: TaskConfig
  model: ModelConfig
  pretrain: PretrainConfig
  lora: LoraConfig
  data: DataConfig
  prompt: PromptConfig
  train: TrainConfig
  generate: GenerateConfig
  embed: EmbedConfig
  ground: GroundConfig
  bm25: Bm25Config
  cf: CfConfig
  recommend: RecommendConfig
  serve: ServeConfig
  report: ReportConfig
  plan: PlanConfig
  mesh: MeshConfig

  def __post_init__(self):
    if len(set(self.seeds)) < len(self.seeds):
      raise errors.UserError(
        f"config.seeds: {self.seeds} found, each seed once expected"
      )
    ground, generate = self.ground, self.generate
    given = ground.predictions.valid and ground.predictions.test
    if ground.beams == "all" and generate.has_prior and not given:
      raise errors.UserError(
        f"config.ground.beams: all found with generate.prior={generate.prior},"
        " whose beams have scores mixed with CF's, not the model's own"
        " log-probabilities; generate.prior_weight=0, or ground.beams=first,"
        " expected"
      )

  def to_dict(self) -> dict[str, Any]:
    """Returns plain nested dicts, e.g. for fingerprints and the report."""
    return dataclasses.asdict(self)


def from_config_dict(config: ml_collections.ConfigDict) -> Config:
  """Turns a ConfigDict into the frozen Config.

  Raises:
    UserError: a key is unknown, missing or holds a value out of its range.
  """
  return checks.build(Config, config, "")
