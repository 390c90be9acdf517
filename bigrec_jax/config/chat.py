"""Section `task.chat`: Chat-REC."""

import dataclasses
from typing import Annotated

from bigrec_jax import errors
from bigrec_jax.config import checks


@dataclasses.dataclass(frozen=True)
class ChatConfig:
  """A chat model in front of the recommender (bigrec_jax/tasks/chat)."""

  model: str
  candidates: Annotated[int, checks.Range(1, 1000)]
  listed: Annotated[int, checks.Range(1, 1000)]
  decide: str
  score: str
  max_new_tokens: Annotated[int, checks.Range(1, 2**16)]
  most_turns: Annotated[int, checks.SOME]
  noun: str
  profile: str
  request: str
  num_users: Annotated[int, checks.ANY]

  def __post_init__(self):
    checks.choice("task.chat.decide", self.decide, ("model", "always"))
    checks.choice("task.chat.score", self.score, ("sum", "mean"))
    if self.listed > self.candidates:
      raise errors.UserError(
        f"config.task.chat.listed: {self.listed} found, at most"
        f" task.chat.candidates, {self.candidates}, expected"
      )
