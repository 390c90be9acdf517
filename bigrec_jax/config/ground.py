"""Sections `embed` and `ground`."""

import dataclasses
from typing import Annotated

from bigrec_jax import errors
from bigrec_jax.config import checks
from bigrec_jax.config.cf import CF_MODELS

# What a fusion can be fitted without (rankers/combine/ablation.py).
PARTS = ("text", "cf", "bm25", "popularity")
# How strong an injection may be.
GAMMA = checks.Range(0, 10**6)
_HUNDREDTHS = [n / 100 for n in range(101)]
_UNITS = [float(n) for n in range(1, 100)]
# docs/protocol.md, Gamma: the grid of each published script.
_GRIDS = {
  "movie_ci": [*_HUNDREDTHS[:-1], *_UNITS],
  "game_ci": [*_HUNDREDTHS[1:], *_UNITS],
  "movie_pda": [0.0, *_UNITS],
}


def gammas(text: str) -> list[float]:
  """Returns the gammas of `ground.gamma_grid`, as they stand there.

  Args:
    text: the name of a published grid, or numbers: "0,0.5,1".

  Raises:
    UserError: neither.
  """
  values = _GRIDS.get(text)
  if values is None:
    values = checks.numbers_in(text.strip("()[] "))
  if not values or not all(value in GAMMA for value in values):
    raise errors.UserError(
      f"config.ground.gamma_grid: {checks.shown(text)} found, one of"
      f" {', '.join(_GRIDS)} or numbers from 0 to a million such as"
      ' "0,0.5,1" expected'
    )
  return values


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
  """The text encoder; no path = the last state of the base."""

  path: str


@dataclasses.dataclass(frozen=True)
class EmbedConfig:
  """Title and prediction embedding."""

  model: EncoderConfig
  batch_size: Annotated[int, checks.ROWS]


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

  cutoffs: Annotated[tuple[int, ...], checks.SOME]
  duplicates: str
  gamma_grid: str
  injections: tuple[str, ...]
  protocols: tuple[str, ...]
  protocol_quirks: bool
  predictions: PerSplit
  cf_scores: PerSplit
  cf_model: str
  popularity: str
  beams: str
  likelihood: Annotated[int, checks.Range(0, 10**4)]
  fusion: str
  fusion_ablations: tuple[str, ...]
  item_fairness: Annotated[tuple[int, ...], checks.Range(1, 10**4)]
  item_groups: str
  item_columns: tuple[str, ...]
  batch_size: Annotated[int, checks.ROWS]
  block_items: Annotated[int, checks.SOME]
  bootstrap_samples: Annotated[int, checks.Range(1, 10**6)]
  permutations: Annotated[int, checks.Range(1, 10**7)]

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
    if not self.cutoffs:
      raise errors.UserError(
        "config.ground.cutoffs: nothing found, at least one rank expected"
      )
    gammas(self.gamma_grid)
    checks.choice("ground.beams", self.beams, ("first", "all"))
    checks.choice("ground.fusion", self.fusion, ("paper", "calibrated"))
    for part in self.fusion_ablations:
      checks.choice("ground.fusion_ablations", part, PARTS)
    if self.fusion_ablations and self.fusion == "paper":
      raise errors.UserError(
        "config.ground.fusion_ablations: parts of a fusion found with"
        " config.ground.fusion=paper, calibrated expected"
      )
    for name in self.cf_models:
      checks.choice("ground.cf_model", name, CF_MODELS)
    if len(self.cf_models) < 2:
      return
    if self.fusion == "paper":
      raise errors.UserError(
        f"config.ground.cf_model: {self.cf_model!r} found with"
        " ground.fusion=paper, which injects one model's scores; one name, or"
        " ground.fusion=calibrated, expected"
      )
    if self.cf_scores.valid or self.cf_scores.test:
      raise errors.UserError(
        f"config.ground.cf_model: {self.cf_model!r} found with"
        " config.ground.cf_scores.*, which are of one model; one name expected"
      )

  @property
  def cf_models(self) -> tuple[str, ...]:
    """The names in `cf_model`, each once; the first is what is injected."""
    names = (name.strip() for name in self.cf_model.split(","))
    return tuple(dict.fromkeys(filter(None, names)))

  @property
  def injected_cf(self) -> str:
    """The CF model whose scores are injected; "" = none."""
    return self.cf_models[0] if self.cf_models else ""
