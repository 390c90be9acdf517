"""What a chat is given by name: the user's profile, the chat model."""

from bigrec_jax.config import ChatConfig
from bigrec_jax.tasks.chat import profile
from bigrec_jax.workdir import given_models


def check(config: ChatConfig) -> None:
  """Raises UserError where profile or chat model can't be read.

  Args:
    config: section `task.chat`, of an evaluation or of a chat.
  """
  profile.read(config.profile)
  check_model(config)


def check_model(config: ChatConfig) -> None:
  """Raises UserError where `task.chat.model` is no model; "" is the base."""
  if config.model:
    given_models.check_base(config.model, "config.task.chat.model")
