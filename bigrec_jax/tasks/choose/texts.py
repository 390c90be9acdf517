"""How a choice reads, with item vectors behind titles or without.

Behind each title of the history and of the candidates stands one soft token
(LLaRA's hybrid prompt), or padding's token where the text alone is to count
(its [PH]). Which of the two, and which template, is drawn for each group of a
step's samples, as the published loader draws it for each of its batches.

A text's number is (variant, sample): the templates without item vectors come
first, then those with.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from bigrec_jax.config import ChooseConfig
from bigrec_jax.data.text import source
from bigrec_jax.tasks.choose import samples as samples_lib
from bigrec_jax.workdir import fingerprints

_YEAR = re.compile(r" \(\d{4}\)$")
_ARTICLE = re.compile(r"^(.*), (The|An|A)( \([^()]*\))?$")


def spoken(title: str) -> str:
  """Returns a MovieLens title without its year, its article in front."""
  bare = _YEAR.sub("", title.strip())
  if found := _ARTICLE.match(bare):
    rest, article, more = found.groups()
    return f"{article} {rest}{more or ''}"
  return bare


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
  """Samples as text; a `source.TextSource`.

  Attributes:
    samples: of a split.
    titles: of all items, as they are written.
    templates: how a question reads.
    hybrid: item vectors may stand behind titles; False = titles alone.
    seed: of what is drawn.
  """

  samples: samples_lib.Samples
  titles: Sequence[str]
  templates: tuple[str, ...]
  hybrid: bool
  seed: int

  @property
  def split(self) -> str:
    """Of the samples."""
    return self.samples.examples.split

  @property
  def fingerprints(self) -> tuple[str, ...]:
    """Of all that they are made of."""
    made_of = [list(self.titles), list(self.templates), self.hybrid, self.seed]
    return (fingerprints.of_value([self.samples.fingerprint, made_of]),)

  def __len__(self) -> int:
    return len(self.samples)

  def text(self, n: int) -> source.Text:
    """Returns how sample `n` is asked when it is evaluated."""
    rng = np.random.default_rng([self.seed, n])
    template = int(rng.integers(len(self.templates)))
    return self.written(n, template, with_items=self.hybrid)

  def written(self, n: int, template: int, *, with_items: bool) -> source.Text:
    """Returns how sample `n` reads in a template."""
    examples = self.samples.examples
    history = [int(i) for i in examples.history[n] if i >= 0]
    candidates = self.samples.candidates[n].tolist()
    text = self.templates[template]
    order = [
      (text.find("{history}"), history),
      (text.find("{candidates}"), candidates),  # Maybe nowhere.
    ]
    order.sort(key=lambda part: part[0])
    items = [item for place, part in order if place >= 0 for item in part]
    # One pass: a title may read like a field.
    words = {
      "{history}": self._listed(history),
      "{candidates}": self._listed(candidates),
      "{count}": str(len(candidates)),
    }
    asked = re.sub(
      r"\{(?:history|candidates|count)\}", lambda m: words[m[0]], text
    )
    soft: tuple[int, ...] = ()
    if self.hybrid:
      soft = tuple(items) if with_items else (-1,) * len(items)
    answer = f" {self.titles[examples.target[n]]}\n"
    return source.Text(asked, answer, asked, soft=soft)

  def target(self, n: int) -> source.Text:
    """Returns the target of text `n` alone; see `views.Targets`."""
    item = int(self.samples.examples.target[n % len(self)])
    words = f" {self.titles[item]}"
    if not (self.hybrid and self.has_items(n)):
      return source.Text("", f"{words}\n", "")
    return source.Text(f"{words}{source.SOFT}", "", "", soft=(item,))

  def group(self, n: int) -> str:
    """Returns the title of the target of text `n`."""
    return self.titles[self.samples.examples.target[n % len(self)]]

  def has_items(self, n: int) -> bool:
    """Returns whether text `n` has item vectors, if any has."""
    del n
    return True

  def _listed(self, items: Sequence[int]) -> str:
    mark = source.SOFT if self.hybrid else ""
    return ", ".join(self.titles[item] + mark for item in items)

  def name(self, n: int) -> str:
    """Returns e.g. "test row 17", by the row of the full split."""
    examples = self.samples.examples
    return f"{self.split} row {examples.rows[n % len(self)]}"

  def content(self, n: int) -> dict[str, Any]:
    """Returns the question, the answer, and the candidates as drawn."""
    text = self.text(n)
    found: dict[str, Any] = {
      "input": text.prompt.replace(source.SOFT, ""),
      "output": text.answer.strip(),
    }
    own = self.samples.candidates[n]
    if len(own) > 1:  # Else none is listed.
      found["candidates"] = [self.titles[i] for i in own]
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class TrainTexts(Texts):
  """The train split: a `source.Scheduled`.

  Attributes:
    options: schedule, groups and workers.
    batch_size: samples of an optimizer step.
    num_epochs: of the run.
  """

  options: ChooseConfig
  batch_size: int
  num_epochs: int

  def text(self, n: int) -> source.Text:
    """Returns text `n`: sample `n` modulo N in one of all variants."""
    variant, sample = divmod(n, len(self))
    with_items, template = divmod(variant, len(self.templates))
    return self.written(sample, template, with_items=bool(with_items))

  def has_items(self, n: int) -> bool:
    """Returns whether text `n` has item vectors, if any has."""
    return n >= len(self) * len(self.templates)

  def at_step(
    self, step: int, num_steps: int, numbers: Sequence[int]
  ) -> Sequence[int]:
    """Returns which texts the samples of a step read as."""
    group, found = self.options.group, []
    for at in range(0, len(numbers), group):
      place = at // group
      rng = np.random.default_rng([self.seed, step, place])
      template = int(rng.integers(len(self.templates)))
      likely = self.probability(step, num_steps, place)
      with_items = self.hybrid and rng.random() < likely
      variant = template + with_items * len(self.templates)
      found += [variant * len(self) + n for n in numbers[at : at + group]]
    return found

  def probability(self, step: int, num_steps: int, place: int) -> float:
    """Returns how likely a group of samples has item vectors.

    Args:
      step: the optimizer step, from 0.
      num_steps: of the run.
      place: of the group in its step.
    """
    options = self.options
    if options.schedule == "two_stage":
      return float(2 * step >= num_steps)
    if options.schedule != "curriculum":
      return 1.0
    if not options.workers:
      return (step + 1) / num_steps
    # Each of the published loader's workers counts its own batches, from 1 in
    # every epoch anew, while `max_step` is that of all epochs: the share never
    # exceeds 1 / epochs.
    per_step = math.ceil(self.batch_size / options.group)
    batch = step % max(num_steps // self.num_epochs, 1) * per_step + place
    most = self.num_epochs * (len(self) // options.group) // options.workers
    return (batch // options.workers + 1) / max(most, 1)
