"""What a contrastive loss reads beside the texts: targets on their own.

Each example of a step has a vector of each of ROLES, the mean of the states of
some tokens: those of its prompt (user), of its target's text on its own
(target), and of the target's text again in another view (other). `pools` of an
encoded text says to which vector each token belongs: 1 + the example's place
in the step times the number of roles + the role's place; 0 = to none.

Beginning-of-text tokens belong to no vector: their states are the same for all
texts, and large.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from bigrec_jax.config import ContrastiveConfig
from bigrec_jax.data.text import encoding, source as source_lib, tokenization

USER, TARGET, OTHER = ROLES = ("user", "target", "other")
_LEFT_OUT = 0.2  # Share of the words that view `words` leaves out.


@runtime_checkable
class Targets(source_lib.TextSource, Protocol):
  """A source that knows how the target of each sample reads on its own."""

  def target(self, n: int) -> source_lib.Text:
    """Returns the text of the target of sample n."""
    ...

  def group(self, n: int) -> str:
    """Returns what targets have in common that aren't told apart."""
    ...


@dataclasses.dataclass(frozen=True, eq=False)
class _Changed:
  """Targets as a `TextSource`, maybe without some of their words.

  Attributes:
    targets: whose they are.
    seed: of the words that are left out; None = none is.
  """

  targets: Targets
  seed: int | None

  @property
  def split(self) -> str:
    """Of the samples."""
    return self.targets.split

  @property
  def fingerprints(self) -> tuple[str, ...]:
    """Of the samples."""
    return self.targets.fingerprints

  def __len__(self) -> int:
    return len(self.targets)

  def text(self, n: int) -> source_lib.Text:
    """Returns the target of sample n."""
    text = self.targets.target(n)
    if self.seed is None:
      return text
    return text._replace(
      prompt=fewer_words(text.prompt, self.seed, n),
      answer=fewer_words(text.answer, self.seed, n),
    )

  def name(self, n: int) -> str:
    """Returns e.g. "target of train row 17"."""
    return f"target of {self.targets.name(n)}"

  def content(self, n: int) -> dict[str, str]:
    """Returns the target's text."""
    return {"output": self.text(n).training}


def fewer_words(text: str, seed: int, n: int) -> str:
  """Returns a text without each of its words with probability .2.

  One word at least stays, and those with soft tokens do.

  Args:
    text: words with blanks between them.
    seed: of the draw, with `n`.
    n: the sample's number.
  """
  words = text.split(" ")
  draws = np.random.default_rng([seed, n]).random(len(words))
  kept = draws >= _LEFT_OUT
  kept[np.argmax(draws)] = True
  kept |= [source_lib.SOFT in word for word in words]
  return " ".join(word for word, keep in zip(words, kept, strict=True) if keep)


class Views:
  """Encodes the examples of a step together with the views of their targets."""

  def __init__(
    self,
    targets: Targets,
    tokenizer: tokenization.Tokenizer,
    config: ContrastiveConfig,
    *,
    max_length: int,
    seed: int,
  ):
    """Encodes nothing yet.

    Args:
      targets: the samples.
      tokenizer: of the base.
      config: for `view` and `pooling`.
      max_length: of a text in tokens.
      seed: of the words that view `words` leaves out.
    """

    def encoded(seed: int | None) -> encoding.EncodedExamples:
      return encoding.EncodedExamples(
        _Changed(targets, seed),
        tokenizer,
        max_length=max_length,
        train_on_inputs=False,
      )

    self._targets = targets
    self._begun = int(tokenizer.add_bos)
    self._last = config.pooling == "last"
    self._alone = encoded(None)
    self._other = {
      "context": None,
      "dropout": self._alone,
      "words": encoded(seed),
    }[config.view]

  def of_step(
    self, numbers: Sequence[int], examples: Sequence[encoding.Encoded]
  ) -> list[encoding.Encoded]:
    """Returns a step's examples and their targets' texts, with pools.

    Args:
      numbers: of the samples.
      examples: the samples, encoded.
    """
    known: dict[str, int] = {}
    found = []
    alone = self._alone.get(numbers)
    other = self._other.get(numbers) if self._other else [None] * len(numbers)
    for place, n in enumerate(numbers):
      group = known.setdefault(self._targets.group(int(n)), len(known))
      example = examples[place]
      length = len(example.tokens)
      prompt = min(example.first_label, length)
      ends = {USER: (self._begun, prompt)}
      if self._other is None:
        ends[OTHER] = (prompt, length)
      found.append(self._pooled(example, place, group, ends))
      for role, view in ((TARGET, alone[place]), (OTHER, other[place])):
        if view is not None:
          whole = {role: (self._begun, len(view.tokens))}
          silent = view._replace(first_label=len(view.tokens))
          found.append(self._pooled(silent, place, group, whole))
    return found

  def _pooled(
    self,
    example: encoding.Encoded,
    place: int,
    group: int,
    ends: dict[str, tuple[int, int]],
  ) -> encoding.Encoded:
    pools = np.zeros(len(example.tokens), np.int32)
    for role, (begin, end) in ends.items():
      if end > begin:
        begin = end - 1 if self._last else begin
        pools[begin:end] = 1 + place * len(ROLES) + ROLES.index(role)
    return example._replace(pools=pools, group=group)
