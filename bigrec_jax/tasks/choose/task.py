"""LLaRA: which of 20 candidates does the user take next?

Liao et al., SIGIR 2024 (arXiv 2312.02445), ljy0ustc/LLaRA. A question lists
history and candidates by title (texts.py), each with the projected item vector
of a frozen CF model behind it (models/soft_tokens.py); the model writes the
title. LoRA and projector are trained together, first on titles alone and more
and more with item vectors (`task.choose.schedule`).
"""

import copy
import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrec_jax import errors
from bigrec_jax.cf import scores as cf_scores
from bigrec_jax.data.prepared.examples import load_examples
from bigrec_jax.data.text import prompts
from bigrec_jax.results import clusters, metrics, rows
from bigrec_jax.tasks import protocol
from bigrec_jax.tasks.choose import samples, scoring, templates, texts
from bigrec_jax.workdir import fingerprints

if TYPE_CHECKING:
  from bigrec_jax.models import Architecture, own_weights
  from bigrec_jax.training import objective, selection

METRIC = "hit_ratio@1"
# Of section `generate`: what isn't read, or changes no text, where answers are
# written to choose epochs by.
_IDLE = ("split", "prompt_buckets", "batch_size", "prior", "prior_weight")
_USERS = 256  # Whose scores are read at a time.


class Task(protocol.Task):
  """LLaRA.

  Attributes:
    system: what its own rows are called.
  """

  name = "choose"
  system = "llara"
  decodes = True
  objectives = ("language_model", "contrastive")

  def __init__(self, store: protocol.Store):
    """Checks the options.

    Raises:
      UserError: an option is another system's, or a template lacks a field.
    """
    super().__init__(store)
    config = store.config
    if config.generate.constrained:
      raise errors.UserError(
        "config.generate.constrained: True found, False expected: that an"
        " answer is a candidate is what task choose measures"
      )
    own = config.task.choose
    self._templates = self._asked()
    self._hybrid = own.schedule != "text"
    self.has_own_weights = self._hybrid
    if self._hybrid:
      self.cf_model = own.cf_model
    self._known: dict[str, samples.Samples] = {}

  def _asked(self) -> tuple[str, ...]:
    """Returns how a question reads."""
    own = self.store.config.task.choose
    return templates.chosen(own.domain, own.templates)

  def text_only(self) -> "Task":
    """Returns the task without item vectors."""
    store = copy.copy(self.store)
    task = store.config.task
    choose = dataclasses.replace(task.choose, schedule="text")
    store.config = dataclasses.replace(
      store.config, task=dataclasses.replace(task, choose=choose)
    )
    return type(self)(store)

  @functools.cached_property
  def _titles(self) -> tuple[str, ...]:
    titles = self.store.catalogue.titles
    if self.store.config.task.choose.bare_titles:
      return tuple(map(texts.spoken, titles))
    return titles

  @functools.cached_property
  def _groups(self) -> np.ndarray:
    """[I], equal for items that an answer can't tell apart.

    Without their years titles of several items may be one.
    """
    first: dict[str, int] = {}
    return np.array(
      [
        first.setdefault(scoring.plain(prompts.clean_title(title)), row)
        for row, title in enumerate(self._titles)
      ],
      np.int32,
    )

  def drawn(self, split: str) -> samples.Samples:
    """Returns a split's samples with their candidates."""
    if split not in self._known:
      self._known[split] = self._drawn(self.store.examples(split))
    return self._known[split]

  def _drawn(self, examples: Any) -> samples.Samples:
    config = self.store.config
    own = config.task.choose
    return samples.draw(
      examples,
      self._groups,
      own.candidates,
      own.min_history,
      config.data.sample_seed,
    )

  def samples(self, split: str) -> texts.Texts:
    """Returns the samples of a split as text."""
    config, drawn = self.store.config, self.drawn(split)
    common = drawn, self._titles, self._templates, self._hybrid, config.seed
    if split != "train":
      return texts.Texts(*common)
    train = config.train
    return texts.TrainTexts(
      *common, config.task.choose, train.batch_size, train.num_epochs
    )

  def num_samples(self, split: str) -> int:
    """Returns the number of rows with a history that is long enough."""
    least = self.store.config.task.choose.min_history
    return len(samples.long_enough(self.store.examples(split), least))

  def corpus(self) -> texts.Texts:
    """Returns all train samples, without item vectors."""
    drawn = self._drawn(load_examples(self.store.paths, "train", -1, 0))
    seed = self.store.config.seed
    return texts.Texts(drawn, self._titles, self._templates, False, seed)

  def made_from(self, split: str) -> dict[str, Any]:
    """Returns the names of a split's texts, and how training reads them."""
    own = self.store.config.task.choose
    chosen_by = {}
    if split == "valid":
      written = dataclasses.asdict(self.store.config.generate)
      kept = {k: v for k, v in written.items() if k not in _IDLE}
      chosen_by = {"chosen_by": kept}
    return {
      **chosen_by,
      f"{split}_examples": self.samples(split).fingerprints[0],
      "task": {
        "name": self.name,
        "schedule": own.schedule,
        "workers": own.workers,
        "group": own.group,
        "cf_model": self.cf_model,
      },
    }

  @functools.cached_property
  def _vectors(self) -> np.ndarray:
    return self.store.cf_item_vectors(self.cf_model)

  def item_vectors(self) -> np.ndarray | None:
    """Returns the CF model's item vectors, [I, E]; None for titles alone."""
    return self._vectors if self._hybrid else None

  def own_weights(self, arch: "Architecture") -> "own_weights.Spec | None":
    """Returns the projector."""
    if not self._hybrid:
      return None
    from bigrec_jax.models import own_weights, soft_tokens

    return own_weights.Spec(
      soft_tokens.projector(self._vectors.shape[1], arch.hidden_size),
      {self.cf_model: fingerprints.of_value(self._vectors.tobytes())},
    )

  def objective(self) -> "objective.Objective":
    """Returns the loss of the configuration, which reads item vectors."""
    plain = super().objective()
    if not self._hybrid:
      return plain
    from bigrec_jax.training import contrastive, objective

    if isinstance(plain, contrastive.Contrastive):
      return dataclasses.replace(plain, item_vectors=self._vectors)
    return objective.SoftTokens(item_vectors=self._vectors)

  def selection(self, network: protocol.Network) -> "selection.Selection":
    """Returns the choice by what is written on valid."""
    from bigrec_jax.tasks.choose import writing
    from bigrec_jax.training import selection

    write = writing.Writer(
      network, self.samples("valid"), self.item_vectors(), self.store.config
    )

    def measure(trained: Any) -> float:
      return float(self._judged("valid", write(trained)).right.mean())

    return selection.Selection(METRIC, True, measure)

  def evaluated_from(self) -> dict[str, Any]:
    """Returns what the rows depend on beside texts, base and adapter."""
    config = self.store.config
    found = {
      "bootstrap_samples": config.ground.bootstrap_samples,
      "seed": config.seed,
      "popularity": fingerprints.of_value(
        self.store.catalogue.popularity.tolist()
      ),
    }
    if self.cf_model:
      for split in protocol.SPLITS:
        path = self.store.paths.cf_scores(self.cf_model, split)
        name = fingerprints.of_folder(path.parent, f"{path.stem}*")
        found[f"cf_{split}"] = name
    return found

  def evaluate(self, evidence: protocol.Evidence) -> list[rows.TaskRow]:
    """Returns the rows of what was written, and of two rankers beside it."""
    found = []
    for split in protocol.SPLITS:
      written = [row["predict"][0] for row in evidence.predictions(split)]
      judged = self._judged(split, written)
      row = self._row(split, self.system, judged.metrics())
      share = float(judged.right.sum() / max(judged.valid.sum(), 1))
      values = {**row.metrics, "hit_ratio@1 of valid": share}
      found.append(dataclasses.replace(row, metrics=values))
      found.append(self._ranked(split, "most_pop", self._popularity))
      if self.cf_model:
        scores = cf_scores.load_scores(
          self.store.paths.cf_scores(self.cf_model, split),
          self.store.examples(split),
          self.store.catalogue,
        )
        score = functools.partial(_of_candidates, scores)
        found.append(self._ranked(split, self.cf_model, score))
    return found

  def _popularity(self, _: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    return self.store.catalogue.popularity[candidates]

  def _judged(self, split: str, written: Sequence[str]) -> scoring.Judged:
    drawn, titles = self.drawn(split), self._titles
    if not len(drawn):
      raise errors.UserError(
        f"config.task.choose.min_history: no {split} row with so long a history"
        " found, one at least expected"
      )
    return scoring.judge(
      written,
      [titles[item] for item in drawn.examples.target],
      [[titles[item] for item in own] for own in drawn.candidates],
    )

  def _ranked(self, split: str, system: str, score: Any) -> rows.TaskRow:
    """Returns the row of a ranker of the same candidates; ties are shared."""
    drawn = self.drawn(split)
    hits = []
    for at in range(0, len(drawn), _USERS):
      part = slice(at, at + _USERS)
      own = drawn.candidates[part]
      values = score(drawn.kept[part], own)  # [n, C]
      best = values == values.max(axis=1, keepdims=True)
      is_target = own == drawn.examples.target[part][:, None]
      hits.append((best & is_target).sum(axis=1) / best.sum(axis=1))
    return self._row(split, system, {METRIC: np.concatenate(hits)})

  def _row(
    self, split: str, system: str, each: dict[str, np.ndarray]
  ) -> rows.TaskRow:
    """Returns the means of values [N] with their bootstrap intervals."""
    config, drawn = self.store.config, self.drawn(split)
    users = clusters.of_owners(drawn.examples.owners)
    intervals = {
      name: metrics.bootstrap_ci95(
        functools.partial(_mean_of, values),
        len(drawn),
        config.ground.bootstrap_samples,
        config.seed,
        users,
      )
      for name, values in each.items()
    }
    means = {name: float(values.mean()) for name, values in each.items()}
    about = means, intervals, len(drawn), [config.seed], clusters.count(users)
    return rows.TaskRow(split, system, *about, each)


def _of_candidates(
  scores: Any, rows_read: np.ndarray, candidates: np.ndarray
) -> np.ndarray:
  """Returns the scores of candidates [n, C] of some rows [n]."""
  return np.take_along_axis(np.asarray(scores[rows_read]), candidates, axis=1)


def _mean_of(values: np.ndarray, drawn: np.ndarray) -> float:
  return float(values[drawn].mean())
