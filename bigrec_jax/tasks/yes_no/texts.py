"""How a sample reads: the published words (TALLRec preprocess_*.py)."""

import dataclasses

from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.data.text import prompts, source
from bigrec_jax.tasks.yes_no.samples import Samples

ANSWERS = ("Yes", "No")  # The words; a full stop follows.
_AUTHOR = " written by "


def answer(label: bool) -> str:
  """Returns what the model learns to write."""
  return f"{ANSWERS[0] if label else ANSWERS[1]}."


def instruction(noun: str) -> str:
  """Returns the instruction of every sample."""
  return (
    "Given the user's preference and unpreference, identify whether the user"
    f' will like the target {noun} by answering "{answer(True)}" or'
    f' "{answer(False)}".'
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
  """Samples as text; a `source.TextSource`.

  Attributes:
    samples: of a split.
    catalogue: of their items.
    prompt: the layout; its own instruction and lead are not used.
    noun: movie, book, ...
  """

  samples: Samples
  catalogue: Catalogue
  prompt: prompts.Prompt
  noun: str

  @property
  def split(self) -> str:
    """Of the samples."""
    return self.samples.split

  @property
  def fingerprints(self) -> tuple[str, ...]:
    """Of samples and catalogue, and the noun."""
    return self.samples.fingerprint, self.catalogue.fingerprint, self.noun

  def __len__(self) -> int:
    return len(self.samples)

  def text(self, n: int) -> source.Text:
    """Returns how sample `n` reads."""
    asked = instruction(self.noun), self.input(n)
    return source.Text(
      self.prompt.prompt_text(*asked),
      answer(bool(self.samples.label[n])),
      self.prompt.inference_text(*asked),
    )

  def input(self, n: int) -> str:
    """Returns preference, unpreference and the question about the target."""
    liked: list[str] = []
    disliked: list[str] = []
    samples = self.samples
    for item, like in zip(samples.history[n], samples.liked[n], strict=True):
      if item >= 0:
        (liked if like else disliked).append(self._item(item))
    target = self._item(samples.target[n])
    if self.noun == "book":
      # So in the published files, with or without an author.
      target = f'"{target}"'
    return (
      f"User Preference: {', '.join(liked)}\n"
      f"User Unpreference: {', '.join(disliked)}\n"
      f"Whether the user will like the target {self.noun} {target}?"
    )

  def _item(self, item: int) -> str:
    """Returns a title in quotes; of a book's, the author follows them."""
    text = self.catalogue.titles[item]
    title, by, author = text.rpartition(_AUTHOR)
    if self.noun == "book" and title:
      return f'"{title}"{by}{author}'
    return f'"{text}"'

  def name(self, n: int) -> str:
    """Returns e.g. "train sample 17"."""
    return f"{self.split} sample {self.samples.rows[n]}"

  def content(self, n: int) -> dict[str, str]:
    """Returns a row of the published JSON files."""
    return {
      "instruction": instruction(self.noun),
      "input": self.input(n),
      "output": answer(bool(self.samples.label[n])),
    }
