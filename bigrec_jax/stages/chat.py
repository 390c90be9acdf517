"""Recommendations in a chat on the command line."""

import json
import pathlib
import sys
from collections.abc import Iterator

from bigrec_jax import config as config_lib, errors
from bigrec_jax.data.formats import raw_files
from bigrec_jax.recommend import (
  choice,
  conversation,
  recommender as recommender_lib,
)
from bigrec_jax.stages import graph, recommend, train
from bigrec_jax.stages.session import Asked, Session, say
from bigrec_jax.tasks.chat import given, profile
from bigrec_jax.workdir import processes

_HELLO = "chat: say what you like; titles in quotes are what you have had"
_PROMPT = "> "


def run(
  config: config_lib.Config, workdir: pathlib.Path, asked: Asked | None = None
) -> None:
  """Answers the lines of standard input until it ends.

  It uses what the workdir has, as `--mode=recommend` does; every turn is a
  line of `chat.jsonl`, which is only added to.

  Raises:
    UserError: something is missing, or several processes were started.
  """
  session = Session(config, workdir, asked)
  session.lists_editions = True
  session.make(STAGE, reads=True)


def needed(session: Session) -> Iterator[graph.Stage]:
  """Yields what makes the lists."""
  yield from recommend.needed(session)


def _check(session: Session) -> None:
  choice.check(session)
  given.check(session.config.task.chat)
  train.check_used(session)
  if processes.are_several():
    raise errors.UserError(
      "--mode=chat: several processes found, one expected: it reads a terminal"
    )


def _build(session: Session, _: graph.Inputs) -> None:
  config, log = session.config, session.paths.chat_log
  talk = conversation.begin(
    session,
    recommend.recommender(session, recommender_lib.Recommender),
    config.recommend.history,
    profile.read(config.task.chat.profile),
  )
  say(_HELLO)
  for message in _messages():
    reply = talk(message)
    line = json.dumps(reply.log, ensure_ascii=False, allow_nan=False)
    with open(log, "a", encoding="utf-8") as file:
      file.write(raw_files.repaired(line) + "\n")
    say(reply.text)
  say(f"chat: turns: {log}")


def _messages() -> Iterator[str]:
  """Yields what the user says; empty lines say nothing."""
  asks = sys.stdin.isatty()
  while True:
    if asks:
      print(_PROMPT, end="", flush=True)
    line = sys.stdin.readline()
    if not line:
      return
    if message := raw_files.repaired(line).strip():
      yield message


STAGE = graph.Stage(
  name="chat",
  mode="chat",
  where=lambda session: session.paths.chat_log,
  needs=needed,
  differs=lambda _: [graph.EVERY_TIME],
  build=_build,
  check=_check,
  quiet=True,
  batches=("generate.batch_size",),
)
