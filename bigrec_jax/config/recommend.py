"""The section `recommend` of the configuration."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

from bigrec_jax import errors
from bigrec_jax.config import checks
from bigrec_jax.config.ground import GAMMA

INJECTIONS = ("none", "popularity", "cf", "popularity+cf")


@dataclasses.dataclass(frozen=True)
class RecommendConfig:
  """For whom `--mode=recommend` lists items, and how."""

  histories: str
  history: Sequence[str]  # No tuple[str, ...]: titles have commas.
  users: str
  allow: str
  deny: str
  output: str
  k: Annotated[int, checks.SOME]
  injection: str
  gamma: str
  exclude_history: bool
  fallback: bool
  unknown: str
  explain: bool

  def __post_init__(self):
    checks.choice("recommend.injection", self.injection, ("auto", *INJECTIONS))
    checks.choice(
      "recommend.unknown", self.unknown, ("error", "nearest", "text", "skip")
    )
    if self.gamma == "auto":
      return
    values = checks.numbers_in(self.gamma)
    if len(values) != 1 or values[0] not in GAMMA:
      raise errors.UserError(
        f"config.recommend.gamma: {checks.shown(self.gamma)} found, auto or a"
        " number from 0 to a million expected"
      )
    if self.injection == "auto":
      raise errors.UserError(
        f"config.recommend.gamma: {self.gamma} found, but of which injection?"
        f" config.recommend.injection as one of {', '.join(INJECTIONS[1:])}"
        " expected"
      )
