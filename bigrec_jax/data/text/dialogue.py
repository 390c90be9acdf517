"""Conversations of several turns as the text that an assistant goes on from.

In the template of an instruct model where its tokenizer has one, else in plain
sections, so that any language model can be asked. What people and catalogues
say is put into the rendered template afterwards: nothing of it is ever taken
for a special token, and a title can't end a turn.
"""

import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from bigrec_jax import errors
from bigrec_jax.data.text import chat, tokenization

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
# Letters and digits alone, which no template trims, escapes or changes.
_PLACE = "Turn{}OfThisConversation"
_PLACES = re.compile(_PLACE.format(r"(\d+)"))

_LAST = "TheLastTurnOfThisConversation"


class Turn(NamedTuple):
  """What one side said.

  Attributes:
    role: system (first, if at all), user or assistant.
    content: its text; white space at its ends is no part of it.
  """

  role: str
  content: str


class Dialogues:
  """Writes conversations for one tokenizer.

  Attributes:
    has_template: whether the tokenizer brings a chat template.
    context: the end of every rendered conversation, behind its last user turn:
      what an answer is tokenised behind.
  """

  def __init__(
    self, directory: pathlib.Path, tokenizer: tokenization.Tokenizer
  ):
    """Looks for a template, and whether it knows system turns.

    Args:
      directory: of the tokenizer and its template.
      tokenizer: as loaded from it.
    """
    self._directory, self._tokenizer = directory, tokenizer
    self.has_template = chat.template(directory) is not None
    self._bos, self._takes_system = "", True
    if self.has_template:
      # A template may begin with the BOS that the tokenizer adds as well.
      self._bos = chat.bos_token(directory) if tokenizer.add_bos else ""
      try:
        self.text([Turn(SYSTEM, "a"), Turn(USER, "b")])
      except errors.UserError:
        self._takes_system = False
    self.context = self.text([Turn(USER, _LAST)]).rpartition(_LAST)[2]

  def text(self, turns: Sequence[Turn]) -> str:
    """Returns the text that ends where the assistant's next turn begins.

    The template's special tokens are marked, none of the turns' are.

    Args:
      turns: a system turn or none, then user and assistant by turns; the last
        is the user's.

    Raises:
      UserError: the template refuses the conversation, or doesn't show it.
    """
    if not self._takes_system:
      turns = _without_system(turns)
    named = [
      {"role": turn.role, "content": _PLACE.format(n)}
      for n, turn in enumerate(turns)
    ]
    if self.has_template:
      text = chat.chat_text(self._directory, named, True)
      text = text.removeprefix(self._bos) if self._bos else text
      text = self._tokenizer.special.mark(text)
    else:
      text = _plain(named)
    pieces = _PLACES.split(text)
    if pieces[1::2] != [str(n) for n in range(len(turns))]:
      raise errors.UserError(
        f"{self._directory}: the chat template shows turns"
        f" {', '.join(pieces[1::2]) or 'none'} of {len(turns)}, each of them"
        " once and in order expected"
      )
    pieces[1::2] = [turn.content.strip() for turn in turns]
    return "".join(pieces)

  def tokens(self, conversations: Sequence[Sequence[Turn]]) -> list[list[int]]:
    """Returns the token ids of conversations, as `text` writes them."""
    return self._tokenizer.encode_data(
      [self.text(own) for own in conversations]
    )


def _plain(messages: Sequence[dict[str, str]]) -> str:
  parts = [
    f"### {message['role'].capitalize()}:\n{message['content']}\n\n"
    for message in messages
  ]
  return "".join(parts) + f"### {ASSISTANT.capitalize()}:\n"


def _without_system(turns: Sequence[Turn]) -> list[Turn]:
  """Returns the turns with the system's before the user's first."""
  if not turns or turns[0].role != SYSTEM or len(turns) == 1:
    return list(turns)
  first = turns[1]
  joined = f"{turns[0].content.strip()}\n\n{first.content.strip()}"
  return [first._replace(content=joined), *turns[2:]]
