"""Section `task`: which system of the literature runs."""

import dataclasses
from typing import Annotated

from bigrec_jax import errors
from bigrec_jax.config import checks
from bigrec_jax.config.auxiliary import AuxiliaryConfig
from bigrec_jax.config.cf import CF_MODELS
from bigrec_jax.config.chat import ChatConfig
from bigrec_jax.config.fairness import FairnessConfig

NOUNS = ("movie", "book", "game", "item")


@dataclasses.dataclass(frozen=True)
class YesNoConfig:
  """TALLRec: will the user like the target (bigrec_jax/tasks/yes_no)?"""

  threshold: Annotated[float, checks.Range(-1e9, 1e9)]
  split: str
  records: Annotated[int, checks.ANY]
  min_items: Annotated[int, checks.SOME]
  noun: str
  eval_steps: Annotated[int, checks.ANY]
  batch_size: Annotated[int, checks.ROWS]
  cf_models: tuple[str, ...]

  def __post_init__(self):
    checks.choice("task.yes_no.split", self.split, ("last_windows", "users"))
    checks.choice("task.yes_no.noun", self.noun, NOUNS)
    for name in self.cf_models:
      if name:
        checks.choice("task.yes_no.cf_models", name, CF_MODELS[2:])


@dataclasses.dataclass(frozen=True)
class ChooseConfig:
  """LLaRA: one of some candidates (bigrec_jax/tasks/choose)."""

  cf_model: str
  schedule: str
  workers: Annotated[int, checks.ANY]
  group: Annotated[int, checks.SOME]
  candidates: Annotated[int, checks.Range(2, 2**16)]
  min_history: Annotated[int, checks.ANY]
  domain: str
  templates: tuple[str, ...]
  bare_titles: bool

  def __post_init__(self):
    checks.choice("task.choose.cf_model", self.cf_model, CF_MODELS[2:])
    schedules = ("text", "direct", "two_stage", "curriculum")
    checks.choice("task.choose.schedule", self.schedule, schedules)
    domains = ("movie", "game", "artist", "item")
    checks.choice("task.choose.domain", self.domain, domains)


@dataclasses.dataclass(frozen=True)
class RsllmConfig:
  """RSLLM, beside what it has of LLaRA (bigrec_jax/tasks/rsllm.py)."""

  full_ranking: bool


@dataclasses.dataclass(frozen=True)
class TitleLikelihoodConfig:
  """LMRecSys: titles by their likelihood (tasks/title_likelihood)."""

  negatives: Annotated[int, checks.ANY]
  candidates: Annotated[int, checks.Range(2, checks.MOST, also=0)]
  min_history: Annotated[int, checks.ANY]
  margin: Annotated[float, checks.Range(0, 1e6)]
  zero_shot: bool


HEADS = ("score", "late", "towers", "options")


@dataclasses.dataclass(frozen=True)
class HeadsConfig:
  """M6-Rec: ways to score candidates (tasks/heads)."""

  heads: tuple[str, ...]
  negatives: Annotated[int, checks.ANY]
  candidates: Annotated[int, checks.Range(2, checks.MOST, also=0)]
  late_layers: Annotated[int, checks.SOME]
  soft_tokens: Annotated[int, checks.Range(1, 2**16)]
  width: Annotated[int, checks.Range(1, 2**20)]
  temperature: Annotated[float, checks.Range(1e-6, 1e6)]

  def __post_init__(self):
    for name in self.heads:
      checks.choice("task.heads.heads", name, HEADS)
    if not self.heads or len(set(self.heads)) < len(self.heads):
      raise errors.UserError(
        f"config.task.heads.heads: {self.heads} found, one or several of"
        f" {', '.join(HEADS)} expected"
      )


@dataclasses.dataclass(frozen=True)
class TaskConfig:
  """What samples, texts, loss and evaluation are (bigrec_jax/tasks).

  The name is checked where tasks are found by it (tasks/registry.py).
  """

  name: str
  yes_no: YesNoConfig
  choose: ChooseConfig
  rsllm: RsllmConfig
  title_likelihood: TitleLikelihoodConfig
  heads: HeadsConfig
  auxiliary: AuxiliaryConfig
  fairness: FairnessConfig
  chat: ChatConfig
