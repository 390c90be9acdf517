"""The section `recommend` of the configuration."""

import dataclasses
import math
from collections.abc import Sequence

from bigrec_jax import errors
from bigrec_jax.config import checks

INJECTIONS = ("none", "popularity", "cf", "popularity+cf")


@dataclasses.dataclass(frozen=True)
class RecommendConfig:
  """For whom `--mode=recommend` lists items, and how."""

  histories: str
  history: Sequence[str]  # No tuple[str, ...]: titles have commas.
  output: str
  k: int
  injection: str
  gamma: str
  exclude_history: bool
  unknown: str

  def __post_init__(self):
    checks.at_least("recommend.k", self.k, 1)
    checks.choice("recommend.injection", self.injection, ("auto", *INJECTIONS))
    checks.choice("recommend.unknown", self.unknown, ("error", "text", "skip"))
    if self.gamma == "auto":
      return
    try:
      value = float(self.gamma)
    except ValueError:
      value = math.nan
    if not (math.isfinite(value) and value >= 0):
      raise errors.UserError(
        f"config.recommend.gamma: {self.gamma!r} found, auto or a number of"
        " at least 0 expected"
      )
    if self.injection == "auto":
      raise errors.UserError(
        f"config.recommend.gamma: {self.gamma} found, but of which injection?"
        f" config.recommend.injection as one of {', '.join(INJECTIONS[1:])}"
        " expected"
      )
