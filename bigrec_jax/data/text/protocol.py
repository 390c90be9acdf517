"""What reads one kind of tokenizer file, as tokenization.Tokenizer sees it."""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Backend(Protocol):
  """What reads one kind of tokenizer file. Adds no BOS and no EOS."""

  size: int

  @property
  def special(self) -> Mapping[str, int]:
    """Ids by text, of the tokens that aren't text."""
    ...

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each text; special tokens in it are recognised."""
    ...

  def encode_data(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each text; only marked tokens are special."""
    ...

  def reserve(self, ids: Sequence[int | None]) -> None:
    """Says which tokens begin, end and fill texts, special or not."""
    ...

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text without special tokens."""
    ...

  def token_id(self, token: str) -> int | None:
    """Returns the id of a token, None if there is no such token."""
    ...
