"""GPT4Rec: beams are search queries, and BM25 finds the items.

Li et al., 2023 (arXiv 2304.03879), with LLaMA and LoRA as in the row
GPT4Rec-LLaMA of BIGRec's tables. There is no published code: prompt, metrics
and what happens where queries match too little are a reconstruction
(docs/systems.md). The model is trained to go on from the history with the
next item's title; the m hypotheses of beam search are queries, each of which
gives K/m titles (evaluation.py).
"""

import dataclasses
from typing import Any

from bigrec_jax import errors
from bigrec_jax.cf import scores as cf_scores
from bigrec_jax.config import PromptConfig
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.data.prepared.examples import Examples, load_examples
from bigrec_jax.data.text import prompts, source
from bigrec_jax.results import rows
from bigrec_jax.tasks import cf_files, protocol
from bigrec_jax.workdir import fingerprints


@dataclasses.dataclass(frozen=True, eq=False)
class Purchases:
  """Histories and next titles as text; a `source.TextSource`.

  Attributes:
    examples: rows of a split. What text a row may carry itself is another
      system's, so it is left out.
    catalogue: its items.
    words: `history` comes before the titles, `instruction` behind them.
  """

  examples: Examples
  catalogue: Catalogue
  words: PromptConfig

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

  def text(self, n: int) -> source.Text:
    """Returns how example `n` reads; the answer begins with a blank."""
    titles = self.catalogue.titles
    bought = [titles[item] for item in self.examples.history[n] if item >= 0]
    listed = "".join(f"{title}. " for title in bought).rstrip()
    asked = f"{self.words.history}\n{listed}\n{self.words.instruction}"
    answer = f" {titles[self.examples.target[n]]}"
    return source.Text(asked, answer, asked)

  def name(self, n: int) -> str:
    """Returns e.g. "train row 17", by the row of the full split."""
    return f"{self.split} row {self.examples.rows[n]}"

  def content(self, n: int) -> dict[str, str]:
    """Returns the prompt and the title of the target."""
    text = self.text(n)
    return {"input": text.prompt, "output": text.answer.lstrip()}


class Task(protocol.Task):
  """GPT4Rec."""

  name = "query"
  decodes = True

  def __init__(self, store: protocol.Store):
    """Checks the options.

    Raises:
      UserError: an option is another system's.
    """
    super().__init__(store)
    config = store.config
    if config.prompt.style != "consistent":
      raise errors.UserError(
        f"config.prompt.style: {config.prompt.style!r} found, 'consistent'"
        " expected: a query's prompt reads alike in training and generation"
      )
    if config.generate.constrained:
      raise errors.UserError(
        "config.generate.constrained: True found, False expected: queries are"
        " free text"
      )

  def samples(self, split: str) -> Purchases:
    """Returns the rows of the configuration."""
    return self._purchases(self.store.examples(split))

  def corpus(self) -> Purchases:
    """Returns all train rows, in the order of seed 0."""
    return self._purchases(load_examples(self.store.paths, "train", -1, 0))

  def made_from(self, split: str) -> dict[str, Any]:
    """Returns the names of a split's rows, and of the words around them."""
    return {
      f"{split}_examples": self.store.examples(split).fingerprint,
      "task": {"name": self.name},
    }

  def evaluated_from(self) -> dict[str, Any]:
    """Returns what the rows depend on beside texts, base and adapter."""
    config = self.store.config
    return {
      "cutoffs": config.ground.cutoffs,
      "bm25": dataclasses.asdict(config.bm25),
      "bootstrap_samples": config.ground.bootstrap_samples,
      "popularity": fingerprints.of_value(
        self.store.catalogue.popularity.tolist()
      ),
      "cf": cf_files.made_from(self.store),
      "seed": config.seed,
    }

  def _purchases(self, examples: Examples) -> Purchases:
    return Purchases(examples, self.store.catalogue, self.store.config.prompt)

  def evaluate(self, evidence: protocol.Evidence) -> list[rows.TaskRow]:
    """Returns recall, NDCG, diversity and coverage of all systems."""
    # Not at the top: a task is found before anything heavy is needed.
    from bigrec_jax.tasks.query import evaluation

    store, splits = self.store, {}
    files = cf_files.find(store)
    cf_files.tell_missing(store)
    for split in protocol.SPLITS:
      examples = store.examples(split)
      splits[split] = evaluation.Split(
        [
          [prompts.extract_title(text) for text in row["predict"]]
          for row in evidence.predictions(split)
        ],
        examples.history,
        examples.target,
        cf_scores.load_scores(files[split], examples, store.catalogue)
        if split in files
        else None,
        examples.owners,
      )
    judge = evaluation.Judge(
      store.catalogue, store.config, store.mesh, evidence.parts.once
    )
    return judge.rows(splits, evidence.progress)
