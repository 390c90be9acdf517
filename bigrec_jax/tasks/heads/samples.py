"""Histories and candidates in pieces: a title reads alike wherever it stands.

A prompt is a lead, a sentence for each title, and a question; a candidate is
the same sentence of its title, and EOS. Each piece is tokenised on its own, so
the first layers may read it once for all prompts (late.py).

Letters: N samples, M candidates of a sample, A titles.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from bigrec_jax.config import TrainConfig
from bigrec_jax.data.text import candidates, packing, source, tokenization
from bigrec_jax.tasks import next_title
from bigrec_jax.tasks.title_likelihood import samples as titles_lib

LEAD, QUESTION, FIRST = 0, 1, 2  # Numbers of pieces; titles from FIRST on.


class Pieces:
  """The tokens of all pieces.

  Attributes:
    tokens: of the lead, of the question, and of each title's sentence.
    eos: the token that ends a candidate.
  """

  def __init__(self, texts: Sequence[str], tokenizer: tokenization.Tokenizer):
    """Tokenises pieces, each on its own; BOS before the lead alone.

    Args:
      texts: lead, question, and each title's sentence.
      tokenizer: of the base.
    """
    begun = int(tokenizer.add_bos)
    encoded = tokenizer.encode_data(list(texts))
    self.tokens = [encoded[LEAD], *(ids[begun:] for ids in encoded[1:])]
    self.eos = tokenizer.eos_id

  @property
  def candidates(self) -> list[list[int]]:
    """What is read of each title as a candidate: its sentence, and EOS."""
    return [[*ids, self.eos] for ids in self.tokens[FIRST:]]


@dataclasses.dataclass(frozen=True, eq=False)
class Clicks(next_title.Titles):
  """Examples whose target is one of some candidates; a `source.LaidOut`.

  Attributes:
    negatives: other titles beside the right one; 0 = all.
    seed: of their draw.
  """

  negatives: int = 0
  seed: int = 0

  @property
  def fingerprints(self) -> tuple[str, ...]:
    """Of examples and catalogue, and how candidates are drawn."""
    return (*super().fingerprints, f"{self.negatives} by {self.seed}")

  @functools.cached_property
  def pool(self) -> titles_lib.Pool:
    """The titles."""
    return titles_lib.Pool(self.catalogue)

  @functools.cached_property
  def texts(self) -> list[str]:
    """Lead, question, and each title's sentence."""
    titles = self.catalogue.titles
    sentences = [f" {titles[row]}." for row in self.pool.rows.tolist()]
    return [self.prompt.history_lead, f" {self.prompt.instruction}", *sentences]

  @property
  def right(self) -> np.ndarray:
    """[N] the title that each took."""
    return self.pool.of_items(self.examples.target)

  @property
  def size(self) -> int:
    """M."""
    every = not 0 < self.negatives < len(self.pool) - 1
    return len(self.pool) if every else self.negatives + 1

  def pieces(self, n: int) -> list[int]:
    """Returns the pieces of a prompt."""
    history = self.examples.history[n]
    titles = self.pool.of_items(history[history >= 0]) + FIRST
    return [LEAD, *titles.tolist(), QUESTION]

  def text(self, n: int) -> source.Text:
    """Returns how example `n` reads."""
    own = [self.texts[piece] for piece in self.pieces(n)]
    prompt = "".join(own)
    ends = np.cumsum([len(text) for text in own]).tolist()
    answer = self.texts[FIRST + int(self.right[n])]
    return source.Text(prompt, answer, prompt, tuple(ends))

  def drawn(self, numbers: Sequence[int]) -> np.ndarray:
    """Returns the candidates [n, M] of samples."""
    size = self.negatives + 1
    return titles_lib.choices(
      self.right, len(self.pool), size, self.seed, numbers
    )

  def layout(
    self, tokenizer: tokenization.Tokenizer, config: TrainConfig, rows: int
  ) -> source.Layout:
    """Returns what makes micro-batches; see `source.LaidOut`.

    What a head reads of a candidate ends with EOS; nothing reads the token
    behind it.
    """
    pieces = Pieces(self.texts, tokenizer)
    answers = [[*ids, pieces.eos] for ids in pieces.candidates]
    return self.laid_out(pieces, answers, tokenizer.pad_id, config, rows)

  def laid_out(
    self,
    pieces: Pieces,
    answers: Sequence[Sequence[int]],
    pad_id: int,
    config: TrainConfig,
    rows: int,
  ) -> candidates.Layout:
    """Returns what makes micro-batches of given answers, one a title."""
    tokens = pieces.tokens

    def prompts(numbers: Sequence[int]) -> list[list[int]]:
      return [
        [token for piece in self.pieces(n) for token in tokens[piece]]
        for n in numbers
      ]

    def parts(numbers: Sequence[int]) -> list[list[tuple[int, int]]]:
      return [
        [(piece, len(tokens[piece])) for piece in self.pieces(n)]
        for n in numbers
      ]

    asked = candidates.Asked(
      prompts, answers, self.drawn, self.right, self.size, parts
    )
    lengths = packing.bucket_lengths(config.length_buckets, config.max_length)
    return candidates.Layout(asked, rows, lengths, pad_id, self.name)
