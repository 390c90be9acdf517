"""Section `task.fairness`: FaiRLLM."""

import dataclasses
from typing import Annotated

from bigrec_jax import errors
from bigrec_jax.config import checks

NOUNS = ("movie", "song", "book", "game", "item")
MODELS = ("base", "tuned")


@dataclasses.dataclass(frozen=True)
class FairnessConfig:
  """Does who asks change what is listed (bigrec_jax/tasks/fairness)?"""

  models: tuple[str, ...]
  values: str
  attributes: tuple[str, ...]
  names: str
  num_names: Annotated[int, checks.SOME]
  noun: str
  list_length: Annotated[int, checks.Range(1, 1000)]
  lists: str
  begin: str

  def __post_init__(self):
    checks.some("task.fairness.models", self.models)
    for name in self.models:
      checks.choice("task.fairness.models", name, MODELS)
    checks.choice("task.fairness.noun", self.noun, NOUNS)
    checks.choice("task.fairness.lists", self.lists, ("text", "beams"))
    if self.begin and self.lists == "beams":
      raise errors.UserError(
        f"config.task.fairness.begin: {self.begin!r} found, nothing expected"
        " with config.task.fairness.lists=beams: each beam is a title"
      )
