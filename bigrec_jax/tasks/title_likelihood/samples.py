"""Histories, and titles of which one is right: what is trained and ranked.

Titles that are equal after cleaning are one candidate, the first of their rows.

Letters: N samples, I items, A titles, M candidates of a sample.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from bigrec_jax import errors
from bigrec_jax.config import TrainConfig
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.data.prepared.examples import Examples
from bigrec_jax.data.text import (
  candidates,
  encoding,
  packing,
  prompts,
  source,
  tokenization,
)
from bigrec_jax.tasks import next_title


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
  """The titles that can be recommended.

  Attributes:
    catalogue: whose they are.
  """

  catalogue: Catalogue

  @functools.cached_property
  def rows(self) -> np.ndarray:
    """[A] the catalogue row of each title, ascending."""
    return np.unique(self.catalogue.groups)

  def __len__(self) -> int:
    return len(self.rows)

  def of_items(self, items: np.ndarray) -> np.ndarray:
    """Returns which title each item has."""
    return np.searchsorted(self.rows, self.catalogue.groups[items])

  def best(self, scores: np.ndarray) -> np.ndarray:
    """Returns each title's best score [..., A] of items' scores [..., I]."""
    order = np.argsort(self.catalogue.groups, kind="stable")
    starts = np.searchsorted(self.catalogue.groups[order], self.rows)
    return np.maximum.reduceat(scores[..., order], starts, axis=-1)

  def tokens(
    self, tokenizer: tokenization.Tokenizer, prompt: prompts.Prompt
  ) -> list[list[int]]:
    """Returns the tokens of each title behind a prompt, no EOS at its end.

    Raises:
      UserError: the tokenizer merges the end of the prompt with a title.
    """
    texts = [
      prompt.output_text(self.catalogue.titles[row])
      for row in self.rows.tolist()
    ]
    return encoding.continuations(
      texts, prompt.answer_context, tokenizer.encode_data
    )


def rows_with_history(examples: Examples, least: int) -> np.ndarray:
  """Returns which rows have at least so many items in their history."""
  return np.flatnonzero((examples.history >= 0).sum(axis=1) >= least)


def with_history(examples: Examples, least: int) -> Examples:
  """Returns the rows with at least so many items in their history.

  What text a row may carry itself is another system's: it is left out.

  Raises:
    UserError: there is none.
  """
  kept = rows_with_history(examples, least)
  if not len(kept):
    raise errors.UserError(
      f"config.task.title_likelihood.min_history: {least} found, but none of"
      f" {len(examples)} {examples.split} rows has so long a history"
    )
  return dataclasses.replace(examples.take(kept), overrides={})


@dataclasses.dataclass(frozen=True, eq=False)
class Choices(next_title.Titles):
  """Examples whose target is one of many candidates; a `source.LaidOut`.

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

  def layout(
    self, tokenizer: tokenization.Tokenizer, config: TrainConfig, rows: int
  ) -> source.Layout:
    """Returns what makes micro-batches; see `source.LaidOut`."""
    pool = Pool(self.catalogue)
    right = pool.of_items(self.examples.target)

    def questions(numbers: Sequence[int]) -> list[list[int]]:
      texts = [self.text(n) for n in numbers]
      return encoding.encode_questions(
        tokenizer, [(text.prompt, text.seams) for text in texts]
      )

    def drawn(numbers: Sequence[int]) -> np.ndarray:
      return choices(right, len(pool), self.negatives + 1, self.seed, numbers)

    every = not 0 < self.negatives < len(pool) - 1
    asked = candidates.Asked(
      questions,
      pool.tokens(tokenizer, self.prompt),
      drawn,
      right,
      len(pool) if every else self.negatives + 1,
    )
    lengths = packing.bucket_lengths(config.length_buckets, config.max_length)
    return candidates.Layout(asked, rows, lengths, tokenizer.pad_id, self.name)


def choices(
  right: np.ndarray, count: int, size: int, seed: int, numbers: Sequence[int]
) -> np.ndarray:
  """Returns the titles [n, M] among which samples choose.

  Args:
    right: [N] the right title of each sample.
    count: A.
    size: M; 1, and A or more, give all titles in their order.
    seed: of the draw.
    numbers: of the samples.
  """
  if not 1 < size < count:
    every = np.arange(count, dtype=np.int32)
    return np.broadcast_to(every, (len(numbers), count))
  return candidates.drawn(right, count, size, seed, numbers)
