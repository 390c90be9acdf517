"""The section `plan` of the configuration."""

import dataclasses
from typing import Annotated

from bigrec_jax import errors
from bigrec_jax.config import checks

PARTS = ("train", "generate", "ground")


@dataclasses.dataclass(frozen=True)
class PlanConfig:
  """What `--mode=plan` compiles for, and what only data could tell it."""

  topology: str
  parts: tuple[str, ...]
  text_tokens: Annotated[int, checks.Range(1, 2**24)]
  prefix_tokens: Annotated[int, checks.ANY]
  new_tokens: Annotated[int, checks.Range(1, 2**24)]
  num_items: Annotated[int, checks.ANY]
  memory_gib: Annotated[float, checks.Range(0, 1e9)]
  search: bool
  quick: bool

  def __post_init__(self):
    for part in self.parts:
      checks.choice("plan.parts", part, PARTS)
    if self.prefix_tokens >= self.text_tokens:
      raise errors.UserError(
        f"config.plan.prefix_tokens: {self.prefix_tokens} found, fewer than"
        f" plan.text_tokens {self.text_tokens} expected"
      )
