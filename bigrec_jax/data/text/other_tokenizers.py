"""Tokenizers in files that only `transformers` reads, through it.

`vocab.json` with `merges.txt`, `vocab.txt`, and SentencePiece files of other
names. transformers takes seconds to import, so it is imported for these alone;
code that comes with a checkpoint is never run.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import tokenizers

from bigrec_jax import errors
from bigrec_jax.data.text import special_text, turns
from bigrec_jax.workdir import fingerprints

# One of these must be there for transformers to be asked.
FILES = (
  "vocab.json",
  "vocab.txt",
  "spiece.model",
  "sentencepiece.bpe.model",
)
# What else says how its tokenizer behaves.
_SETTINGS = (
  "merges.txt",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
)


def load_from_transformers(directory: pathlib.Path) -> Any:
  """Returns transformers' tokenizer of a directory.

  Raises:
    UserError: transformers can't make one of what is there.
  """
  import transformers

  kind: (
    type[transformers.PreTrainedTokenizerFast]
    | type[transformers.AutoTokenizer]
  )
  if (directory / "tokenizer.json").is_file():
    # AutoTokenizer imports torch where there is one; this class does without.
    kind = transformers.PreTrainedTokenizerFast
  else:
    kind = transformers.AutoTokenizer
  try:
    return kind.from_pretrained(
      str(directory), local_files_only=True, trust_remote_code=False
    )
  except Exception as error:  # It has no type of its own for a wrong file.
    reason = " ".join(str(error).split())
    raise errors.UserError(
      f"{directory}: no tokenizer that transformers reads: {reason[:300]}"
    ) from None


class Other:
  """A backend of `tokenization.Tokenizer`, run by transformers.

  Attributes:
    size: largest id + 1.
    special_ids: of BOS (declared, else what it puts before a text), EOS
      (declared, else the separator of an encoder) and padding.
    special: ids by text, of the tokens that aren't text.
    adds_bos: whether it puts something before a text by itself.
    content: the fingerprint of its files.
  """

  def __init__(self, directory: pathlib.Path):
    self._tokenizer = load_from_transformers(directory)
    vocabulary = self._tokenizer.get_vocab()
    if len(vocabulary) <= len(self._tokenizer.all_special_ids):
      # transformers makes an empty one where it misses its own file.
      found = ", ".join(n for n in FILES if (directory / n).is_file())
      raise errors.UserError(
        f"{directory}: {found} found, but no tokenizer that transformers reads:"
        f" {type(self._tokenizer).__name__} has special tokens only"
      )
    self._vocabulary = vocabulary
    self.size = 1 + max(vocabulary.values())
    first = self._first_special_id()
    declared = self._tokenizer.bos_token_id
    self.adds_bos = first is not None
    bos = first if declared is None else declared
    eos = self._tokenizer.eos_token_id
    eos = self._tokenizer.sep_token_id if eos is None else eos
    self.special_ids = (bos, eos, self._tokenizer.pad_token_id)
    backend = getattr(self._tokenizer, "backend_tokenizer", None)
    self._data = None
    self.special = dict(
      zip(
        self._tokenizer.all_special_tokens,
        self._tokenizer.all_special_ids,
        strict=True,
      )
    )
    if isinstance(backend, tokenizers.Tokenizer):
      self._data = special_text.Encoder(backend)
      self.special = self._data.special
    self._in_turn = turns.Turns()
    names = (n for n in FILES + _SETTINGS if (directory / n).is_file())
    self.content = fingerprints.of_value(
      {name: fingerprints.of_file(directory / name) for name in names}
    )

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each text; special tokens in it are recognised."""
    return self._encode(texts, split=False)

  def encode_data(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each text; only marked tokens are special."""
    if self._data is not None:
      return self._data.encode(texts, lambda p: self._encode(p, split=True))
    return [self._encode_parts(text) for text in texts]

  def reserve(self, ids: Sequence[int | None]) -> None:
    """Says which tokens begin, end and fill texts, special or not."""
    if self._data is not None:
      self._data.reserve(ids)

  def _encode_parts(self, text: str) -> list[int]:
    """Encodes with a tokenizer in Python, marked tokens one by one."""
    meant = special_text.pattern(self.special, f"{special_text.MARK}+")
    parts = [text] if meant is None else meant.split(text)
    ids: list[int] = []
    for number, part in enumerate(parts):  # Text and token in turn.
      if number % 2:
        ids.append(self.special[part])
      elif part:
        part = special_text.unmarked(part)
        ids += self._encode([part], split=True)[0]
    return ids

  def _encode(self, texts: Sequence[str], split: bool) -> list[list[int]]:
    def encode(some: list[str]) -> list[list[int]]:
      return self._tokenizer(
        some,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        split_special_tokens=split,
        verbose=False,
      )["input_ids"]

    return self._in_turn(texts, encode)

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text without special tokens."""
    return self._tokenizer.decode(
      list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )

  def token_id(self, token: str) -> int | None:
    """Returns the id of a token, None if there is no such token."""
    return self._vocabulary.get(token)

  def _first_special_id(self) -> int | None:
    bare = self._tokenizer("a", add_special_tokens=False)["input_ids"]
    full = self._tokenizer("a")["input_ids"]
    return full[0] if full[: len(bare)] != bare else None
