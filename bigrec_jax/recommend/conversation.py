"""A chat about the items of a workdir, as an object."""

import dataclasses
import os
from collections.abc import Mapping, Sequence

from bigrec_jax.recommend import (
  loaded as loaded_lib,
  log_handlers,
  other_model,
  recommender as recommender_lib,
)
from bigrec_jax.tasks import protocol
from bigrec_jax.tasks.chat import (
  given,
  model as model_lib,
  orchestration,
)


class Conversation:
  """One user's chat; call it with what the user says.

  Attributes:
    dialogue: what was said and shown so far.
  """

  def __init__(
    self,
    orchestrator: orchestration.Orchestrator,
    dialogue: orchestration.Dialogue,
  ):
    """Begins a chat; `chat` does so for a workdir."""
    self._orchestrator, self.dialogue = orchestrator, dialogue

  def __call__(self, message: str) -> orchestration.Reply:
    """Returns the answer; its items are the catalogue's.

    Raises:
      NonFiniteError: a network gives NaN.
    """
    with log_handlers.left_alone():
      return self._orchestrator(self.dialogue, message)


def chat(
  workdir: str | os.PathLike,
  history: Sequence[str | int] = (),
  *,
  model: str | None = None,
  profile: Mapping[str, str] | None = None,
  chat_model: model_lib.ChatModel | None = None,
) -> Conversation:
  """Begins a chat over a finished workdir; makes and writes nothing.

  Args:
    workdir: what `--workdir` named.
    history: ids or titles that the user has had, oldest first.
    model: Hugging Face directory of the chat model, "" = the workdir's base;
      None = the workdir's `task.chat.model`.
    profile: facts of the user by name.
    chat_model: in place of all these: anything that writes and scores.

  Raises:
    UserError: something is missing or doesn't fit, or the catalogue lacks an
      item of the history.
  """
  recommender = recommender_lib.Recommender.load(workdir)
  loaded = recommender.loaded
  if model is not None:
    section = dataclasses.replace(loaded.config.task.chat, model=model)
    task = dataclasses.replace(loaded.config.task, chat=section)
    loaded.config = dataclasses.replace(loaded.config, task=task)
  with log_handlers.left_alone():
    return begin(loaded, recommender, history, profile or {}, chat_model)


def begin(
  loaded: loaded_lib.Loaded,
  recommend: protocol.Recommends,
  history: Sequence[str | int],
  profile: Mapping[str, str],
  chat_model: model_lib.ChatModel | None = None,
) -> Conversation:
  """Begins a chat over what is loaded already.

  Args:
    loaded: configuration and workdir; `task.chat.model` names the chat model.
    recommend: what proposes.
    history: ids or titles.
    profile: facts of the user by name.
    chat_model: in place of the named one.
  """
  dialogue = orchestration.Dialogue(
    orchestration.found_history(loaded.offered, history), profile
  )
  if chat_model is None:
    config = loaded.config.task.chat
    given.check_model(config)
    network = other_model.network(loaded, config.model)
    chat_model = model_lib.DecodedChat(network, loaded.config)
  orchestrator = orchestration.Orchestrator(
    recommend, chat_model, loaded.offered, loaded.config
  )
  return Conversation(orchestrator, dialogue)
