"""What a split reads as: the seam between a task's samples and their tokens.

A task (bigrec_jax/tasks) decides what a sample is; from here on, in encoding,
packing and training, a sample is a prompt and an answer.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from bigrec_jax.config import TrainConfig
from bigrec_jax.data.text import tokenization

# In a prompt: here is a soft token. Half a surrogate pair, as the other mark
# (special_text.MARK), so no text of data holds it.
SOFT = "\ud801"
# Numbers of the samples of a step -> its micro-batches (packing.py).
Layout = Callable[[Sequence[int]], list[dict[str, np.ndarray]]]


class Text(NamedTuple):
  """How one sample reads.

  Attributes:
    prompt: what training puts before the answer; without `train_on_inputs`
      its tokens, tokenised on its own, are no labels.
    answer: what the model learns to write after it.
    question: what decoding or scoring continues: the prompt, but where a
      published style words the two differently.
    soft: the items (catalogue rows) of the soft tokens, one for each SOFT in
      the prompt, in order: their vectors stand in place of a token's embedding
      (models/soft_tokens.py). -1 = the place keeps its own token, padding's.
      What lies between soft tokens is tokenised on its own.
    seams: ends of the pieces of `training` that are tokenised on their own, the
      last that of the prompt, as D3 does; none = it is one text. A text in
      pieces always ends with EOS, and loses its beginning where it is too long.
  """

  prompt: str
  answer: str
  question: str
  seams: tuple[int, ...] = ()
  soft: tuple[int, ...] = ()

  @property
  def training(self) -> str:
    """Prompt and answer, ending right after the answer."""
    return self.prompt + self.answer


class TextSource(Protocol):
  """N samples of a split as text; text N is made when asked for.

  Attributes:
    split: train, valid or test.
    fingerprints: name all that the texts are made from, prompt aside.
  """

  @property
  def split(self) -> str:
    """Train, valid or test."""
    ...

  @property
  def fingerprints(self) -> tuple[str, ...]:
    """Names samples and whatever their words come from."""
    ...

  def __len__(self) -> int:
    """Returns N."""
    ...

  def text(self, n: int) -> Text:
    """Returns how sample n reads."""
    ...

  def name(self, n: int) -> str:
    """Returns what messages call sample n, e.g. "train row 17"."""
    ...

  def content(self, n: int) -> dict[str, Any]:
    """Returns what a predictions file says of sample n beside its texts."""
    ...


@runtime_checkable
class Scheduled(TextSource, Protocol):
  """A train split whose samples read otherwise from step to step.

  It has more texts than samples: `text(k)` is of sample k modulo N.
  """

  def at_step(
    self, step: int, num_steps: int, numbers: Sequence[int]
  ) -> Sequence[int]:
    """Returns which texts the samples of an optimizer step read as.

    Args:
      step: from 0.
      num_steps: of the whole run.
      numbers: of the samples, in their order.
    """
    ...


@runtime_checkable
class LaidOut(TextSource, Protocol):
  """Samples that are more than a text each, such as a prompt and candidates."""

  def layout(
    self, tokenizer: tokenization.Tokenizer, config: TrainConfig, rows: int
  ) -> Layout:
    """Returns what makes the micro-batches of given samples.

    Every array of a micro-batch has a whole number of rows for each of its R
    prompts, those of prompt r in the r-th R-th of its rows: processes and
    shards take equal parts of each.

    Args:
      tokenizer: of the base.
      config: section `train`.
      rows: R, the prompts of a micro-batch over all processes.
    """
    ...
