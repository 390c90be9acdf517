"""BIGRec: the answer is the title of the user's next item.

Samples are the prepared rows, history and target, as the prompt of the
configuration renders them; loss and choice of the best epoch are those of a
language model; what it writes is grounded to the catalogue (ground_eval).
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.data.prepared.examples import Examples, load_examples
from bigrec_jax.data.text import prompts, source
from bigrec_jax.tasks import protocol

if TYPE_CHECKING:
  from bigrec_jax.training import objective


class Parts(NamedTuple):
  """The three parts of an example, as in BIGRec's JSON files."""

  instruction: str
  input: str
  output: str


@dataclasses.dataclass(frozen=True, eq=False)
class Titles:
  """Examples as text; a `source.TextSource`.

  Attributes:
    examples: rows of a split.
    catalogue: its items.
    prompt: renders them.
  """

  examples: Examples
  catalogue: Catalogue
  prompt: prompts.Prompt

  @property
  def split(self) -> str:
    """Of the examples."""
    return self.examples.split

  @property
  def fingerprints(self) -> tuple[str, ...]:
    """Of examples and catalogue."""
    return self.examples.fingerprint, self.catalogue.fingerprint

  def __len__(self) -> int:
    return len(self.examples)

  def parts(self, n: int) -> Parts:
    """Renders example number `n`."""
    examples, titles = self.examples, self.catalogue.titles
    output = self.prompt.output_text(titles[examples.target[n]])
    if n in examples.overrides:
      return Parts(*examples.overrides[n], output)
    history = [titles[i] for i in examples.history[n] if i >= 0]
    return Parts(
      self.prompt.instruction, self.prompt.input_text(history), output
    )

  def text(self, n: int) -> source.Text:
    """Returns how example `n` reads."""
    return text_of(self.parts(n), self.prompt)

  def target(self, n: int) -> source.Text:
    """Returns the target of example `n` as the model learns to write it."""
    return source.Text("", self.parts(n).output, "")

  def group(self, n: int) -> str:
    """Returns the title of the target."""
    return self.catalogue.titles[self.examples.target[n]]

  def name(self, n: int) -> str:
    """Returns e.g. "train row 17", by the row of the full split."""
    return f"{self.split} row {self.examples.rows[n]}"

  def content(self, n: int) -> dict[str, str]:
    """Returns instruction, input and output."""
    return self.parts(n)._asdict()


def text_of(parts: Parts, prompt: prompts.Prompt) -> source.Text:
  """Returns how a row of BIGRec's JSON files reads."""
  asked = parts.instruction, parts.input
  return source.Text(
    prompt.prompt_text(*asked),
    parts.output,
    prompt.inference_text(*asked),
    prompt.seams(*asked),
  )


class Task(protocol.Task):
  """BIGRec."""

  name = "next_title"
  decodes = True
  grounds = True
  recommends = True
  objectives = ("language_model", "legal_tokens", "contrastive")

  def samples(self, split: str) -> Titles:
    """Returns the rows of the configuration."""
    return self._titles(self.store.examples(split))

  def corpus(self) -> Titles:
    """Returns all train rows, in the order of seed 0."""
    return self._titles(load_examples(self.store.paths, "train", -1, 0))

  def made_from(self, split: str) -> dict[str, Any]:
    """Returns the names of a split's rows."""
    return {f"{split}_examples": self.store.examples(split).fingerprint}

  def legal_answers(self) -> Sequence[str]:
    """Returns every title as the model is taught to write it."""
    titles = dict.fromkeys(self.store.catalogue.titles)
    return [self.store.prompt.output_text(title) for title in titles]

  def answers_of_items(self) -> np.ndarray:
    """Returns the place of each item's title among the answers, [I]."""
    titles = self.store.catalogue.titles
    place = {title: n for n, title in enumerate(dict.fromkeys(titles))}
    return np.array([place[title] for title in titles])

  def objective(self) -> "objective.Objective":
    """Returns the loss that `train.objective` names."""
    train = self.store.config.train
    if train.objective != "legal_tokens":
      return super().objective()
    from bigrec_jax.decoding import constraints
    from bigrec_jax.training import adaptive, legal_tokens

    tokenizer = self.store.tokenizer
    encoded = constraints.title_tokens(
      self.legal_answers(),
      self.store.prompt.answer_context,
      tokenizer.encode_data,
      tokenizer.decode,
      tokenizer.eos_id,
    )
    trie = constraints.build_trie(*encoded)
    if train.adaptive_temperature:
      return adaptive.AdaptiveLegalTokens(trie, train.temperature)
    return legal_tokens.LegalTokens(trie, train.temperature)

  def _titles(self, examples: Examples) -> Titles:
    return Titles(examples, self.store.catalogue, self.store.prompt)
