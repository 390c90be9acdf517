"""A chat model as the orchestration needs it, and one that our decoder runs.

Letters: N conversations, M answers of a conversation.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from bigrec_jax import config as config_lib, errors, progress as reports
from bigrec_jax.data.text.dialogue import Dialogues, Turn
from bigrec_jax.tasks import protocol, written
from bigrec_jax.workdir import parts as parts_lib

# Of the users who are decoded side by side, so many are read at a time.
_SHARE = 4


class ChatModel(Protocol):
  """Goes on from conversations, and says how likely answers are."""

  def write(self, conversation: Sequence[Turn]) -> str:
    """Returns the likeliest answer, token by token."""
    ...

  def log_probs(
    self,
    conversations: Sequence[Sequence[Turn]],
    answers: Sequence[Sequence[str]],
    kept: parts_lib.Vectors | None = None,
  ) -> np.ndarray:
    """Returns log p of whole answers [N, M] float32, -inf where none is.

    Args:
      conversations: [N].
      answers: [N][<= M] texts.
      kept: of the conversations that were asked before a kill.
    """
    ...


class DecodedChat:
  """A `ChatModel` over a network without an adapter."""

  def __init__(self, network: protocol.Network, config: config_lib.Config):
    """Finds the chat template.

    Args:
      network: with the folder of its tokenizer.
      config: `task.chat`, and `generate` for sizes of programs.
    """
    from bigrec_jax.decoding import generate

    assert network.directory is not None
    self._network, self._config = network, config
    self._dialogues = Dialogues(network.directory, network.tokenizer)
    settings = written.greedy(config.generate)
    settings = dataclasses.replace(
      settings, max_new_tokens=config.task.chat.max_new_tokens
    )
    self._write = written.Writer(network, None, settings, config.seed)
    # Turns of a chat have no common beginning whose length would stay: each
    # would be a program of its own.
    self._nothing = generate.Prefix([], None)

  def write(self, conversation: Sequence[Turn]) -> str:
    """Returns what is written, up to where it would go on for the user."""
    tokens = self._dialogues.tokens([conversation])
    ((text,),) = self._write(tokens, prefix=self._nothing)
    return text.partition("\n### ")[0].strip()

  def log_probs(
    self,
    conversations: Sequence[Sequence[Turn]],
    answers: Sequence[Sequence[str]],
    kept: parts_lib.Vectors | None = None,
  ) -> np.ndarray:
    """Returns [N, M] by packed likelihoods: a conversation is read once.

    By `task.chat.score` the sum over an answer's tokens, its end included, or
    their mean.
    """
    from bigrec_jax.decoding import constraints, likelihood
    from bigrec_jax.devices import sharding

    network, generate = self._network, self._config.generate
    every = list(dict.fromkeys(text for own in answers for text in own))
    place = {text: n for n, text in enumerate(every)}
    most = max(map(len, answers)) if kept is None else kept.values.shape[1]
    candidates = np.full((len(answers), most), -1, np.int32)
    for row, own in zip(candidates, answers, strict=True):
      row[: len(own)] = [place[text] for text in own]
    tokens = constraints.continuations(
      every,
      self._dialogues.context,
      network.tokenizer.encode_data,
      network.tokenizer.eos_id,
    )
    unit = sharding.batch_size_unit(network.mesh)
    found = likelihood.score(
      network.model,
      network.params,
      None,
      self._dialogues.tokens(conversations),
      tokens,
      candidates,
      network.mesh,
      batch_size=max(1, generate.batch_size // _SHARE // unit) * unit,
      buckets=generate.prompt_buckets,
      progress=reports.NullProgress(),
      prefix=self._nothing,
      kept=kept,
    )
    if self._config.task.chat.score == "sum":
      return found
    lengths = np.array([*map(len, tokens), 1], np.float32)
    return found / lengths[candidates]


def check_finite(scores: np.ndarray, what: str) -> None:
  """Raises NonFiniteError for a model that says NaN."""
  bad = np.flatnonzero(np.isnan(scores).any(axis=-1))
  if bad.size:
    raise errors.NonFiniteError(int(bad[0]), f"NaN as log p of {what} found")
