"""The section `plan` of the configuration."""

import dataclasses

from bigrec_jax import errors
from bigrec_jax.config import checks

PARTS = ("train", "generate", "ground")


@dataclasses.dataclass(frozen=True)
class PlanConfig:
  """What `--mode=plan` compiles for, and what only data could tell it."""

  topology: str
  parts: tuple[str, ...]
  text_tokens: int
  prefix_tokens: int
  new_tokens: int
  num_items: int
  memory_gib: float
  search: bool
  quick: bool

  def __post_init__(self):
    for part in self.parts:
      checks.choice("plan.parts", part, PARTS)
    for key in ("text_tokens", "new_tokens"):
      checks.at_least(f"plan.{key}", getattr(self, key), 1)
    for key in ("prefix_tokens", "num_items", "memory_gib"):
      checks.at_least(f"plan.{key}", getattr(self, key), 0)
    if self.prefix_tokens >= self.text_tokens:
      raise errors.UserError(
        f"config.plan.prefix_tokens: {self.prefix_tokens} found, fewer than"
        f" plan.text_tokens {self.text_tokens} expected"
      )
