"""Prompts as the turns of a chat, in the template of an instruct model.

The template is a program in Jinja that comes with the tokenizer; transformers
renders it, in a sandbox. It is imported only for this.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from bigrec_jax import errors
from bigrec_jax.data.text import other_tokenizers, tokenization
from bigrec_jax.workdir import fingerprints, storage

# Some templates write the day's date, and prompts of two days would differ.
# This is the date that Llama 3's own templates have where there is no clock.
_DATE = "26 Jul 2024"
_ANSWER = '"an answer"'
_QUESTION = "Which question comes here"  # Of special-token text.


def chat_text(
  tokenizer_dir: str | pathlib.Path,
  messages: Sequence[Mapping[str, str]],
  add_generation_prompt: bool,
) -> str:
  """Returns a conversation as the model's own template writes it.

  Args:
    tokenizer_dir: a Hugging Face directory with a chat template.
    messages: turns, each with `role` and `content`.
    add_generation_prompt: whether the beginning of the assistant's next turn
      follows.

  Raises:
    UserError: there is no template, or it refuses the conversation.
  """
  tokenizer = _tokenizer(pathlib.Path(tokenizer_dir))
  if not tokenizer.chat_template:
    raise errors.UserError(
      f"{tokenizer_dir}: no chat template found, the tokenizer of an instruct"
      " model expected"
    )
  try:
    return tokenizer.apply_chat_template(
      [dict(message) for message in messages],
      tokenize=False,
      add_generation_prompt=add_generation_prompt,
      date_string=_DATE,
    )
  except Exception as error:  # Jinja's and transformers' are of many types.
    reason = " ".join(str(error).split())
    raise errors.UserError(
      f"{tokenizer_dir}: the chat template fails: {reason[:300]}"
    ) from None


def template(tokenizer_dir: str | pathlib.Path) -> Any:
  """Returns the chat template of a Hugging Face directory, None without one.

  It is read from its files; a tokenizer without a template needs no Jinja, and
  may be one that transformers can't make.
  """
  directory = pathlib.Path(tokenizer_dir)
  file = directory / "chat_template.jinja"
  if file.is_file():
    return file.read_text(encoding="utf-8", errors="replace")
  settings = storage.read_json_if_whole(directory / "tokenizer_config.json")
  found = settings.get("chat_template") if isinstance(settings, dict) else None
  return found or None


def bos_token(tokenizer_dir: str | pathlib.Path) -> str:
  """Returns the text of its BOS, "" where it has none."""
  return _tokenizer(pathlib.Path(tokenizer_dir)).bos_token or ""


@functools.lru_cache(maxsize=4)
def _tokenizer(directory: pathlib.Path) -> Any:
  return other_tokenizers.load_from_transformers(directory)


class Chat:
  """Writes one user's turn such that the assistant's answer comes next.

  Attributes:
    fingerprint: names the template.
  """

  def __init__(
    self, directory: pathlib.Path, tokenizer: tokenization.Tokenizer
  ):
    """Checks that what training learns is a whole turn of the template.

    A training text is prompt, answer and EOS. So the template must write, for
    the conversation with the answer, the same, and white space at most.

    Args:
      directory: of the tokenizer and its template.
      tokenizer: as loaded from it.

    Raises:
      UserError: no template, or one whose turns end otherwise.
    """
    self._directory = directory
    self._tokenizer = tokenizer
    loaded = _tokenizer(directory)
    # A template may begin with the BOS that the tokenizer adds as well.
    self._bos = loaded.bos_token if tokenizer.add_bos else ""
    prompt = self._render([_turn("user", "a question")], True)
    turns = [_turn("user", "a question"), _turn("assistant", _ANSWER)]
    whole = self._render(turns, False)
    end = loaded.decode([tokenizer.eos_id])
    if not (
      whole.startswith(prompt + _ANSWER)
      and whole.removeprefix(prompt + _ANSWER).strip() == end
    ):
      raise errors.UserError(
        f"{directory}: the chat template continues"
        f" {prompt[-40:]!r} with {whole[len(prompt) :]!r}, the answer and the"
        f" end-of-sequence token {end!r} expected (prompt.style=chat is for"
        " instruct models)"
      )
    self.fingerprint = fingerprints.of_value(
      [loaded.chat_template, loaded.special_tokens_map, _DATE]
    )

  def prompt(self, question: str) -> str:
    """Returns the text that ends where the assistant's answer begins.

    The template's special tokens are marked, none of the question's are.
    """
    special = self._tokenizer.special
    if not special.found(question):
      return special.mark(self._render([_turn("user", question)], True))
    before, placed, after = self._render(
      [_turn("user", _QUESTION)], True
    ).partition(_QUESTION)
    return (
      special.mark(before) + (question if placed else "") + special.mark(after)
    )

  def _render(self, turns: list[dict[str, str]], open_end: bool) -> str:
    text = chat_text(self._directory, turns, open_end)
    return text.removeprefix(self._bos) if self._bos else text


def _turn(role: str, content: str) -> dict[str, str]:
  return {"role": role, "content": content}
