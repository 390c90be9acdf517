"""Text -> token ids and which of them are labels.

The rules are those of the published train.py (docs/protocol.md, Training): the
text is cut at `max_length` from the right, EOS follows if it fits and isn't
there, and without `train_on_inputs` the tokens of the prompt, tokenised on its
own, are no labels. Texts in pieces (D3's, code/dataset.py) are encoded piece by
piece; they always end with EOS and are cut from the left.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from bigrec_jax import errors
from bigrec_jax.data.text import source as source_lib, tokenization

# Beyond this many examples tokens are made anew in each epoch: a million
# prompts of 240 tokens would take a gigabyte.
_CACHED_EXAMPLES = 1 << 18
_ENCODE_AT_ONCE = 256
_NONE = np.zeros(0, np.int32)


class Encoded(NamedTuple):
  """One example as tokens.

  Attributes:
    tokens: int32 [n], at most max_length of them.
    first_label: the tokens from here on are labels; at least 1, because
      nothing predicts the first token.
    cut: whether tokens were cut off.
    places: int32 [s], ascending, of soft tokens; no labels, whatever the text.
    items: int32 [s], what they stand for; see `source.Text`.
    pools: int32 [n], of which vector of a step each token is part (views.py);
      None = nobody asked.
    group: of `pools`, equal for targets that aren't told apart.
  """

  tokens: np.ndarray
  first_label: int
  cut: bool
  places: np.ndarray = _NONE
  items: np.ndarray = _NONE
  pools: np.ndarray | None = None
  group: int = 0


def encode_questions(
  tokenizer: tokenization.Tokenizer,
  questions: Sequence[tuple[str, tuple[int, ...]]],
) -> list[list[int]]:
  """Returns what decoding continues, BOS first; nothing is cut.

  Args:
    tokenizer: of the base.
    questions: texts, and their seams (`source.Text`).
  """
  pieces = encode_pieces(tokenizer, questions)
  return [list(itertools.chain(*parts)) for parts in pieces]


def continuations(
  texts: Sequence[str],
  context: str,
  encode: Callable[[Sequence[str]], list[list[int]]],
) -> list[list[int]]:
  """Tokenises texts as they continue a prompt.

  A tokenizer may write a text differently at its start than after something
  (SentencePiece puts a blank before it), so each is encoded behind the end of a
  prompt whose own tokens are then cut off.

  Args:
    texts: as the model writes them, such as titles with quotes.
    context: the end of every prompt, e.g. its response marker.
    encode: the tokenizer.

  Raises:
    UserError: the tokenizer merges the end of the prompt with a text, so no
      sequence of tokens continues a prompt with this text.
  """
  (prefix,) = encode([context])
  found = []
  for text, ids in zip(
    texts, encode([context + text for text in texts]), strict=True
  ):
    if ids[: len(prefix)] != prefix:
      raise errors.UserError(
        f"title {text!r}: merged by the tokenizer with the {context[-12:]!r}"
        " before it, a tokenizer that splits between them expected"
      )
    found.append(ids[len(prefix) :])
  return found


def encode_pieces(
  tokenizer: tokenization.Tokenizer,
  texts: Sequence[tuple[str, tuple[int, ...]]],
) -> list[list[list[int]]]:
  """Returns the ids of each text's pieces, BOS before the first alone."""
  cut = [
    [text[a:b] for a, b in itertools.pairwise((0, *seams, len(text)))]
    for text, seams in texts
  ]
  ids = iter(tokenizer.encode_data([piece for own in cut for piece in own]))
  begun = int(tokenizer.add_bos)
  return [
    [next(ids)[begun if place else 0 :] for place in range(len(own))]
    for own in cut
  ]


def encode_soft(
  tokenizer: tokenization.Tokenizer, texts: Sequence[str]
) -> list[tuple[list[int], np.ndarray]]:
  """Returns ids and places of soft tokens, BOS first; nothing is cut.

  What lies between soft tokens is encoded on its own, as Hugging Face does
  around added tokens; a soft token is padding's id.

  Args:
    tokenizer: of the base.
    texts: with SOFT where soft tokens are.
  """
  cut = [text.split(source_lib.SOFT) for text in texts]
  ids = iter(tokenizer.encode_data([piece for own in cut for piece in own]))
  begun = int(tokenizer.add_bos)
  found = []
  for own in cut:
    whole, places = list(next(ids)), []
    for _ in own[1:]:
      places.append(len(whole))
      whole += [tokenizer.pad_id, *next(ids)[begun:]]
    found.append((whole, np.array(places, np.int32)))
  return found


class Encoder:
  """Encodes texts for training."""

  def __init__(
    self,
    tokenizer: tokenization.Tokenizer,
    *,
    max_length: int,
    train_on_inputs: bool,
  ):
    self._tokenizer = tokenizer
    self._max_length = max_length
    self._train_on_inputs = train_on_inputs

  def encode_batch(self, texts: Sequence[source_lib.Text]) -> list[Encoded]:
    """Returns the encoded examples, in order."""
    if any(text.seams for text in texts):
      return self._encode_apart(texts)
    if any(text.soft for text in texts):
      return self._encode_soft(texts)
    whole = self._tokenizer.encode_data([text.training for text in texts])
    if self._train_on_inputs:
      first_labels = [1] * len(whole)
    else:
      alone = self._tokenizer.encode_data([text.prompt for text in texts])
      first_labels = [max(len(ids), 1) for ids in alone]
    return [
      self._finish(ids, first)
      for ids, first in zip(whole, first_labels, strict=True)
    ]

  def _encode_apart(self, texts: Sequence[source_lib.Text]) -> list[Encoded]:
    """Encodes texts in pieces; of a long one the last tokens are kept."""
    found = []
    for pieces in encode_pieces(
      self._tokenizer, [(text.training, text.seams) for text in texts]
    ):
      ids = [*itertools.chain(*pieces), self._tokenizer.eos_id]
      lost = max(len(ids) - self._max_length, 0)
      prompt = 0 if self._train_on_inputs else sum(map(len, pieces[:-1]))
      first_label = max(prompt - lost, 1)
      kept = np.array(ids[lost:], np.int32)
      found.append(Encoded(kept, first_label, lost > 0))
    return found

  def _encode_soft(self, texts: Sequence[source_lib.Text]) -> list[Encoded]:
    """Encodes texts with soft tokens, and others among them."""
    whole = encode_soft(self._tokenizer, [text.training for text in texts])
    if self._train_on_inputs:
      first_labels = [1] * len(texts)
    else:
      alone = encode_soft(self._tokenizer, [text.prompt for text in texts])
      first_labels = [max(len(ids), 1) for ids, _ in alone]
    found = []
    for text, (ids, places), first in zip(
      texts, whole, first_labels, strict=True
    ):
      if len(places) != len(text.soft):
        raise ValueError(f"{len(places)} soft tokens, {len(text.soft)=}")
      kept = places < self._max_length
      found.append(
        self._finish(ids, first)._replace(
          places=places[kept], items=np.array(text.soft, np.int32)[kept]
        )
      )
    return found

  def _finish(self, ids: list[int], first_label: int) -> Encoded:
    cut = len(ids) > self._max_length
    ids = ids[: self._max_length]
    eos = self._tokenizer.eos_id
    # `ids` is empty only for an empty text without BOS.
    if len(ids) < self._max_length and (not ids or ids[-1] != eos):
      ids = [*ids, eos]
    return Encoded(np.array(ids, np.int32), first_label, cut)


class EncodedExamples:
  """Tokens of the samples of a split, made when first asked for and kept.

  Attributes:
    truncated: examples so far whose text did not fit; said aloud once.
    unlabelled: examples so far that were cut so short that no label is left.
      They stay in their step, with weight 0.
  """

  def __init__(
    self,
    source: source_lib.TextSource,
    tokenizer: tokenization.Tokenizer,
    *,
    max_length: int,
    train_on_inputs: bool,
  ):
    self._source = source
    self._max_length = max_length
    self._encoder = Encoder(
      tokenizer, max_length=max_length, train_on_inputs=train_on_inputs
    )
    self._kept: dict[int, Encoded] = {}
    self._keeps = len(source) <= _CACHED_EXAMPLES
    self.truncated = 0
    self.unlabelled = 0

  def __len__(self) -> int:
    return len(self._source)

  def get(self, numbers: Sequence[int]) -> list[Encoded]:
    """Returns the examples of these numbers, in their order."""
    wanted = [int(n) for n in numbers]
    missing = [n for n in dict.fromkeys(wanted) if n not in self._kept]
    found: dict[int, Encoded] = {}
    for at in range(0, len(missing), _ENCODE_AT_ONCE):
      part = missing[at : at + _ENCODE_AT_ONCE]
      encoded = self._encoder.encode_batch([self._source.text(n) for n in part])
      for n, example in zip(part, encoded, strict=True):
        self._count(n, example)
        found[n] = example
    if self._keeps:
      self._kept |= found
    return [found[n] if n in found else self._kept[n] for n in wanted]

  def _count(self, n: int, example: Encoded) -> None:
    name = self._source.name(n)
    if example.cut:
      self.truncated += 1
      if self.truncated == 1:
        logging.warning(
          "%s is longer than max_length %d and loses its %s; more such rows"
          " are counted, not told",
          name,
          self._max_length,
          "beginning" if self._source.text(n).seams else "end",
        )
    if example.first_label >= len(example.tokens):
      self.unlabelled += 1
      if self.unlabelled == 1:
        logging.warning(
          "%s has no label left within max_length %d: weight 0; more such"
          " rows are counted, not told",
          name,
          self._max_length,
        )
