"""A `tokenizer.model` as a backend of `tokenization.Tokenizer`."""

import pathlib
import re
from collections.abc import Collection, Mapping, Sequence

import sentencepiece

from bigrec_jax import errors
from bigrec_jax.data.text import special_text


class SentencePiece:
  """A `tokenizer.model`, encoded as the slow legacy LlamaTokenizer does.

  Text is cut at special tokens, and SentencePiece puts a blank before every
  piece in between, so "a" and " a" differ, and a text that starts with blanks
  gets one more. transformers 5 no longer has this tokenizer: its LlamaTokenizer
  adds no blank before a blank.
  """

  def __init__(
    self,
    path: pathlib.Path,
    added: Mapping[str, int],
    words: Collection[str] = (),
  ):
    """Loads the file.

    Args:
      path: the file.
      added: ids by text, of tokens beside those of the file.
      words: those of them that are text, not special.
    """
    self._processor = sentencepiece.SentencePieceProcessor()
    try:
      self._processor.Load(str(path))
    except (RuntimeError, OSError) as error:
      raise errors.UserError(
        f"{path}: a SentencePiece model expected: {error}"
      ) from None
    size = self._pieces = self._processor.get_piece_size()
    self._special = dict(added) | {
      self._processor.id_to_piece(i): i
      for i in range(size)
      if self._processor.is_control(i) or self._processor.is_unknown(i)
    }
    self._special_ids = frozenset(self._special.values())
    self._cut = special_text.pattern(self._special) or re.compile("(?!)")
    self._words = {added[word]: word for word in words}
    self.special = {
      token: i for token, i in self._special.items() if i not in self._words
    }
    # Of data: what is marked, and words wherever they are.
    marked = special_text.pattern(self.special, f"{special_text.MARK}+")
    both = (marked, special_text.pattern(words))
    self._data_cut = re.compile("|".join(p.pattern for p in both if p))
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

  def encode_data(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each text; only marked tokens are special."""
    if not any(self._data_cut.search(text) for text in texts):
      # SentencePiece itself makes no special token of a text.
      return self._processor.encode([special_text.unmarked(t) for t in texts])
    return [self._encode_cut(text) for text in texts]

  def _encode_cut(self, text: str) -> list[int]:
    ids, end = [], 0
    for match in self._data_cut.finditer(text):
      ids += self._encode_piece(text[end : match.start()])
      ids.append(self._special[match[match.lastindex or 0]])
      end = match.end()
    return ids + self._encode_piece(text[end:])

  def _encode_piece(self, text: str) -> list[int]:
    return self._processor.encode(special_text.unmarked(text)) if text else []

  def reserve(self, ids: Sequence[int | None]) -> None:
    """Says which tokens begin, end and fill texts: none that text makes."""

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text without special tokens."""
    parts: list[str] = []
    run: list[int] = []
    for i in ids:
      if i in self._words:
        parts += [self._processor.decode(run), self._words[i]]
        run = []
      # A base may have more rows than there are pieces, for its sake only.
      elif i not in self._special_ids and i < self._pieces:
        run.append(i)
    return "".join([*parts, self._processor.decode(run)])

  def token_id(self, token: str) -> int | None:
    """Returns the id of a token, None if there is no such token."""
    if token in self._special:
      return self._special[token]
    i = self._processor.piece_to_id(token)
    return None if self._processor.is_unknown(i) else i
