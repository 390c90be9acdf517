"""A `tokenizer.json` as a backend of `tokenization.Tokenizer`."""

import itertools
import pathlib
from collections.abc import Sequence

import tokenizers

from bigrec_jax import errors
from bigrec_jax.data.text import special_text, turns
from bigrec_jax.workdir import fields, storage

_TRIED = 1000  # Tokens, for one that a text is made of.


def load(path: pathlib.Path) -> tokenizers.Tokenizer:
  """Returns the tokenizer of a file, without truncation and padding.

  Raises:
    UserError: the file is missing or damaged, or has no token.
  """
  content = fields.of_object(storage.read_json(path), f"{path}")
  if not isinstance(content.get("model"), dict):
    raise errors.UserError(f"{path}: a tokenizer with a model expected")
  try:
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    # The file may carry the settings of its last use.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # Some damage only shows when a text goes all the way through.
    tokenizer.decode(tokenizer.encode("a text", add_special_tokens=True).ids)
  except BaseException as error:
    # The library has no type of its own for a wrong file, and where it
    # panics, what it raises is no Exception.
    if not isinstance(error, Exception) and "Panic" not in type(error).__name__:
      raise
    reason = " ".join(str(error).split())
    raise errors.UserError(
      f"{path}: no tokenizer that can be used: {reason[:300]}"
    ) from None
  if not tokenizer.get_vocab_size(with_added_tokens=True):
    raise errors.UserError(f"{path}: no token found, some expected")
  return tokenizer


class Fast:
  """A `tokenizer.json`, run by the tokenizers library.

  Attributes as in `protocol.Backend`.
  """

  def __init__(self, path: pathlib.Path):
    self._tokenizer = load(path)
    self.size = 1 + max(self._tokenizer.get_vocab(True).values())
    self._data = special_text.Encoder(self._tokenizer)
    self.special = self._data.special
    self.reserve = self._data.reserve
    self._in_turn = turns.Turns()

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each text; special tokens in it are recognised."""
    return self._encode(texts, split=False)

  def encode_data(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each text; only marked tokens are special."""
    return self._data.encode(texts, lambda part: self._encode(part, split=True))

  def _encode(self, texts: Sequence[str], split: bool) -> list[list[int]]:
    def encode(some: list[str]) -> list[list[int]]:
      if self._tokenizer.encode_special_tokens != split:
        self._tokenizer.encode_special_tokens = split
      found = self._tokenizer.encode_batch_fast(some, add_special_tokens=False)
      return [encoding.ids for encoding in found]

    return self._in_turn(texts, encode)

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text without special tokens."""
    return self._tokenizer.decode(list(ids), skip_special_tokens=True)

  def token_id(self, token: str) -> int | None:
    """Returns the id of a token, None if there is no such token."""
    return self._tokenizer.token_to_id(token)

  def _text_of(self, i: int) -> str:
    return self._tokenizer.decode([i], skip_special_tokens=True)

  def first_special_id(self) -> int | None:
    """Returns the id that the post-processor puts first, if it puts any."""
    # A small vocabulary may have no token of this letter, but has some.
    texts = itertools.chain(
      ["a"], map(self._text_of, range(min(self.size, _TRIED)))
    )
    for text in texts:
      bare = self._tokenizer.encode(text, add_special_tokens=False).ids
      if bare:
        break
    full = self._tokenizer.encode(text, add_special_tokens=True).ids
    return full[0] if full[: len(bare)] != bare else None
