"""Sections `embed` and `ground`."""

import dataclasses

from bigrec_jax import errors
from bigrec_jax.config import checks
from bigrec_jax.config.cf import CF_MODELS


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
  """The text encoder; no path = the last state of the base."""

  path: str


@dataclasses.dataclass(frozen=True)
class EmbedConfig:
  """Title and prediction embedding."""

  model: EncoderConfig
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
      checks.choice(
        "ground.protocols", name, ("bigrec", "single_gamma", "two_gammas")
      )
    if not self.cutoffs or min(self.cutoffs) < 1:
      raise errors.UserError(
        f"config.ground.cutoffs: {self.cutoffs} found, positive ranks expected"
      )
    checks.at_least("ground.batch_size", self.batch_size, 1)
    checks.at_least("ground.block_items", self.block_items, 1)
    if self.cf_model:
      checks.choice("ground.cf_model", self.cf_model, CF_MODELS)
