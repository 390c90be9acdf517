"""Titles as the token sequences that a model may write."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from bigrec_jax import errors
from bigrec_jax.data.text import encoding, prompts

_NAMED = 3  # Titles that a warning names.


class Encoded(NamedTuple):
  """The titles that can be written.

  Attributes:
    sequences: Token ids of each, EOS at its end.
    rows: [R] int64, which of the given titles each is; ascending.
  """

  sequences: list[list[int]]
  rows: np.ndarray


def continuations(
  titles: Sequence[str],
  context: str,
  encode_batch: Callable[[Sequence[str]], list[list[int]]],
  eos_id: int,
) -> list[list[int]]:
  """Tokenises titles as they continue a prompt, each with EOS at its end.

  Args:
    titles: As the model writes them, with quotes.
    context: The end of every prompt, e.g. its response marker.
    encode_batch: The tokenizer.
    eos_id: Ends a hypothesis.

  Raises:
    UserError: see `encoding.continuations`.
  """
  found = encoding.continuations(titles, context, encode_batch)
  return [[*ids, eos_id] for ids in found]


def title_tokens(
  titles: Sequence[str],
  context: str,
  encode_batch: Callable[[Sequence[str]], list[list[int]]],
  decode: Callable[[Sequence[int]], str],
  eos_id: int,
) -> Encoded:
  """Returns the titles that can be written, as `continuations` has them.

  A title is left out, with a warning, where what the model would write does
  not read as this title again: unknown characters, text that the tokenizer
  changes, an end of sequence or a prompt's end within it, nothing but quotes
  and blanks. So every hypothesis is a title of the catalogue.

  Args:
    titles: As the model writes them, with quotes.
    context: The end of every prompt, e.g. its response marker.
    encode_batch: The tokenizer.
    decode: Its inverse.
    eos_id: Ends a hypothesis.

  Raises:
    UserError: the tokenizer merges the end of the prompt with a title, so no
      sequence of tokens continues a prompt with this title; or no title is
      left.
  """
  sequences, rows, lost = [], [], []
  every = continuations(titles, context, encode_batch, eos_id)
  for row, (title, ids) in enumerate(zip(titles, every, strict=True)):
    own = ids[:-1]
    clean = prompts.clean_title(title)
    if (
      clean
      and eos_id not in own
      and prompts.extract_title(decode(own)) == clean
    ):
      sequences.append(ids)
      rows.append(row)
    else:
      lost.append(title)
  if not sequences:
    raise errors.UserError(
      f"titles: none of {len(titles)} found that can be written with this"
      " tokenizer, one at least expected"
    )
  if lost:
    logging.warning(
      "%d of %d titles are never written under a trie, as the tokenizer does"
      " not give them back unchanged: %s%s",
      len(lost),
      len(titles),
      ", ".join(map(repr, lost[:_NAMED])),
      ", ..." if len(lost) > _NAMED else "",
    )
  return Encoded(sequences, np.array(rows, np.int64))
