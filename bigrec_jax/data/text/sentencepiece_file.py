"""A `tokenizer.model` as a backend of `tokenization.Tokenizer`."""

import pathlib
import re
from collections.abc import Mapping, Sequence

import sentencepiece

from bigrec_jax import errors


class SentencePiece:
  """A `tokenizer.model`, encoded as the slow legacy LlamaTokenizer does.

  Text is cut at special tokens, and SentencePiece puts a blank before every
  piece in between, so "a" and " a" differ, and a text that starts with blanks
  gets one more. transformers 5 no longer has this tokenizer: its LlamaTokenizer
  adds no blank before a blank.
  """

  def __init__(self, path: pathlib.Path, added: Mapping[str, int]):
    self._processor = sentencepiece.SentencePieceProcessor()
    try:
      self._processor.Load(str(path))
    except (RuntimeError, OSError) as error:
      raise errors.UserError(
        f"{path}: a SentencePiece model expected: {error}"
      ) from None
    size = self._processor.get_piece_size()
    self._special = dict(added) | {
      self._processor.id_to_piece(i): i
      for i in range(size)
      if self._processor.is_control(i) or self._processor.is_unknown(i)
    }
    self._special_ids = frozenset(self._special.values())
    names = sorted(self._special, key=len, reverse=True)
    self._cut = re.compile("(" + "|".join(map(re.escape, names)) + ")")
    self.size = max(size, 1 + max(self._special_ids))

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each text; special tokens in it are recognised."""
    if any(self._cut.search(text) for text in texts):
      return [self._encode_with_special(text) for text in texts]
    return self._processor.encode(list(texts))

  def _encode_with_special(self, text: str) -> list[int]:
    ids = []
    for piece in filter(None, self._cut.split(text)):
      if piece in self._special:
        ids.append(self._special[piece])
      else:
        ids.extend(self._processor.encode(piece))
    return ids

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text without special tokens."""
    return self._processor.decode(
      [i for i in ids if i not in self._special_ids]
    )

  def token_id(self, token: str) -> int | None:
    """Returns the id of a token, None if there is no such token."""
    if token in self._special:
      return self._special[token]
    i = self._processor.piece_to_id(token)
    return None if self._processor.is_unknown(i) else i
