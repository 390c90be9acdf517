"""LMRecSys: items are ranked by how likely the model finds their titles.

Zhang et al., 2021, "Language Models as Recommender Systems: Evaluations and
Limitations" (yuhui-zh15/LMRecSys, commit 309ca19), in its causal form: the
score of an item is the mean log-probability of its title's tokens after "A user
watched A, B. Now the user may want to watch". The adapter is trained by a loss
over the scores of items (training/items.py), or nothing is trained. Beside
each score stands the one without its linguistic bias: less the score of the
same title after a prompt without history.
"""

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrec_jax import errors
from bigrec_jax.cf import scores as cf_scores
from bigrec_jax.data.prepared.examples import Examples, load_examples
from bigrec_jax.data.text import encoding, pipeline
from bigrec_jax.results import rows
from bigrec_jax.tasks import cf_files, next_title, protocol
from bigrec_jax.tasks.title_likelihood import samples
from bigrec_jax.workdir import fingerprints, parts as parts_lib

if TYPE_CHECKING:
  from bigrec_jax.tasks.title_likelihood import ranking, scoring
  from bigrec_jax.training import objective

SYSTEM, UNTUNED = "lmrecsys", "untuned base"
# Share of the score without history that is taken off, to choose from.
WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


class Task(protocol.Task):
  """LMRecSys."""

  name = "title_likelihood"
  computes = True
  mixes = False
  batches = ("generate.batch_size",)
  objectives = ("item_softmax", "item_hinge", "language_model")

  @property
  def trains(self) -> bool:
    """Not where the base is judged as it is."""
    return not self.store.config.task.title_likelihood.zero_shot

  @property
  def asks(self) -> str | None:
    """The base's own weights, where nothing is trained."""
    return None if self.trains else ""

  @functools.cached_property
  def _pool(self) -> samples.Pool:
    return samples.Pool(self.store.catalogue)

  def _titles(self, examples: Examples) -> next_title.Titles:
    """Returns rows as text; with a loss over items, candidates with them."""
    store = self.store
    own = examples, store.catalogue, store.prompt
    config = store.config
    if config.train.objective == "language_model":
      return next_title.Titles(*own)
    negatives = config.task.title_likelihood.negatives
    return samples.Choices(*own, negatives, config.seed)

  def used(self, split: str) -> Examples:
    """Returns the rows of a split that the configuration uses."""
    least = self.store.config.task.title_likelihood.min_history
    return samples.with_history(self.store.examples(split), least)

  def samples(self, split: str) -> next_title.Titles:
    """Returns them as text."""
    return self._titles(self.used(split))

  def num_samples(self, split: str) -> int:
    """Returns the number of rows with a history that is long enough."""
    return len(self.used(split))

  def corpus(self) -> next_title.Titles:
    """Returns all train rows, in the order of seed 0."""
    every = load_examples(self.store.paths, "train", -1, 0)
    least = self.store.config.task.title_likelihood.min_history
    return self._titles(samples.with_history(every, least))

  def made_from(self, split: str) -> dict[str, Any]:
    """Returns the names of a split's rows, and what their loss is over."""
    config = self.store.config.task.title_likelihood
    task: dict[str, Any] = {"name": self.name}
    if self.store.config.train.objective != "language_model":
      task |= {"negatives": config.negatives, "margin": config.margin}
    return {f"{split}_examples": self.used(split).fingerprint, "task": task}

  def objective(self) -> "objective.Objective":
    """Returns the loss that `train.objective` names."""
    from bigrec_jax.training import items

    config = self.store.config
    if config.train.objective == "language_model":
      return super().objective()
    margin = config.task.title_likelihood.margin
    return items.ItemLoss(config.train.objective, margin)

  def evaluated_from(self) -> dict[str, Any]:
    """Returns what the rows depend on beside texts, base and adapter."""
    config = self.store.config
    return {
      "candidates": config.task.title_likelihood.candidates,
      "sample_seed": config.data.sample_seed,  # Of the candidates.
      "prompt": config.to_dict()["prompt"],
      "cutoffs": config.ground.cutoffs,
      "bootstrap_samples": config.ground.bootstrap_samples,
      "popularity": fingerprints.of_value(
        self.store.catalogue.popularity.tolist()
      ),
      "cf": cf_files.made_from(self.store),
      "seed": config.seed,
    }

  def evaluate(self, evidence: protocol.Evidence) -> list[rows.TaskRow]:
    """Returns recall, MRR and NDCG of all systems."""
    from bigrec_jax.tasks.title_likelihood import scoring

    store = self.store
    if self.trains:
      tuned = evidence.tuned()
    else:
      tuned = protocol.Tuned(evidence.untuned(""), None)
    titles = self._pool.tokens(store.tokenizer, store.prompt)
    systems = {UNTUNED: tuned}
    if self.trains:
      systems = {SYSTEM: tuned, UNTUNED: tuned.without_adapter}
    found: list[rows.TaskRow] = []
    for system, one in systems.items():
      scorer = scoring.Scorer(one, titles, store.config.generate)
      found += self._corrected(evidence, system, scorer)
    found += self._others()
    return sorted(found, key=lambda row: protocol.SPLITS.index(row.split))

  @functools.cached_property
  def _asked(self) -> "dict[str, ranking.Asked]":
    """The candidates of both splits."""
    # Not at the top: a task is found before anything heavy is needed.
    from bigrec_jax.tasks.title_likelihood import ranking

    config, found = self.store.config, {}
    for split in protocol.SPLITS:
      used = self.used(split)
      right = self._pool.of_items(used.target)
      size = config.task.title_likelihood.candidates or 1
      seed, numbers = config.data.sample_seed, range(len(used))
      own = samples.choices(right, len(self._pool), size, seed, numbers)
      found[split] = ranking.Asked(own, right, used.owners)
    return found

  def _corrected(
    self, evidence: protocol.Evidence, system: str, scorer: "scoring.Scorer"
  ) -> list[rows.TaskRow]:
    """Returns the rows of a system: plain, less the bias, less a share."""
    from bigrec_jax.tasks.title_likelihood import ranking

    prompt = self.store.prompt
    asked = next_title.Parts(prompt.instruction, prompt.input_text([]), "")
    text = next_title.text_of(asked, prompt)
    (nothing,) = encoding.encode_questions(
      self.store.tokenizer, [(text.question, text.seams)]
    )
    alone = evidence.parts.once(
      f"{system} alone", lambda: {"scores": scorer.alone(nothing)}
    )["scores"]
    after = {
      split: self._after(evidence, split, system, scorer)
      for split in protocol.SPLITS
    }
    return ranking.corrected(
      system, self._asked, after, alone, WEIGHTS, self.store.config
    )

  def _after(
    self,
    evidence: protocol.Evidence,
    split: str,
    system: str,
    scorer: "scoring.Scorer",
  ) -> np.ndarray:
    """Returns the scores [N, M] of a split's candidates after histories."""
    source, asked = self.samples(split), self._asked[split]
    tokens = pipeline.question_tokens(source, self.store.tokenizer)
    shape = asked.candidates.shape
    kept = parts_lib.Vectors(evidence.parts, f"{split} {system}", *shape)
    with evidence.progress(f"{system} {split}", len(tokens), "users") as bar:
      try:
        return scorer(tokens, asked.candidates, bar, kept)
      except errors.NonFiniteError as error:
        raise error.of(error.row, source.name(error.row)) from None

  def _others(self) -> list[rows.TaskRow]:
    """Returns the rows of popularity and of a CF model."""
    from bigrec_jax.tasks.title_likelihood import ranking

    store, found = self.store, []
    config, files = store.config, cf_files.find(store)
    cf_files.tell_missing(store)
    popular = self._pool.best(store.catalogue.popularity)  # [A]
    for split, asked in self._asked.items():
      scores = popular[asked.candidates]
      found.append(ranking.row(split, "most_pop", asked, scores, config))
      if split in files:
        by_item = cf_scores.load_scores(
          files[split], store.examples(split), store.catalogue
        )
        least = config.task.title_likelihood.min_history
        used = samples.rows_with_history(store.examples(split), least)
        scores = self._of_titles(by_item, used, asked.candidates)
        name = config.ground.injected_cf or "cf"
        found.append(ranking.row(split, name, asked, scores, config))
    return found

  def _of_titles(
    self, by_item: Any, used: np.ndarray, candidates: np.ndarray
  ) -> np.ndarray:
    """Returns scores [N, M] of titles, by a table of items a block at a time.

    Args:
      by_item: of all rows of a split and all items.
      used: [N] rows of the table.
      candidates: [N, M] titles.
    """
    blocks, size = [], self.store.config.ground.batch_size
    for at in range(0, len(used), size):
      part = slice(at, at + size)
      by_title = self._pool.best(np.asarray(by_item[used[part]]))
      blocks.append(np.take_along_axis(by_title, candidates[part], axis=1))
    return np.concatenate(blocks)
