"""TALLRec: will the user like the target, Yes or No?

Bao et al., RecSys 2023. Samples from ratings (samples.py) in the published
words (texts.py); the model learns the answer; its score is P(Yes)
(scoring.py), its quality the ROC-AUC, which on valid also decides which
adapter is kept and when training stops. Beside it the base untuned, and CF
models of the same samples (cf.py).
"""

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrec_jax import errors
from bigrec_jax.data.prepared import splits
from bigrec_jax.results import clusters, metrics, rows
from bigrec_jax.tasks import protocol
from bigrec_jax.tasks.yes_no import cf, samples, texts
from bigrec_jax.workdir import parts

if TYPE_CHECKING:
  from bigrec_jax.training import selection

SYSTEM, UNTUNED = "tallrec", "untuned base"
METRIC = "auc"


class Task(protocol.Task):
  """TALLRec."""

  name = "yes_no"
  computes = True
  needs_ratings = True

  @functools.cached_property
  def _all(self) -> dict[str, samples.Samples]:
    store = self.store
    return samples.load(
      store.paths, store.config.task.yes_no, store.config.data.sample_seed
    )

  @functools.cached_property
  def _used(self) -> dict[str, samples.Samples]:
    """The few shots of train, and what is measured on."""
    config, used = self.store.config, {}
    for split, found in self._all.items():
      count = getattr(config.data, f"num_{split}")
      if split == "train":
        chosen = splits.train_rows(len(found), count, config.seed)
      else:
        seed = config.data.sample_seed
        chosen = splits.evaluation_rows(len(found), count, seed)
      used[split] = found.take(chosen)
    return used

  def _texts(self, found: samples.Samples) -> texts.Texts:
    store = self.store
    noun = store.config.task.yes_no.noun
    return texts.Texts(found, store.catalogue, store.prompt, noun)

  def used(self, split: str) -> samples.Samples:
    """Returns the samples of a split that the configuration uses."""
    return self._used[split]

  def samples(self, split: str) -> texts.Texts:
    """Returns them as text."""
    return self._texts(self._used[split])

  def num_samples(self, split: str) -> int:
    """Returns the number of samples, which are no prepared rows."""
    return len(self._used[split])

  def corpus(self) -> texts.Texts:
    """Returns all train samples."""
    return self._texts(self._all["train"])

  def made_from(self, split: str) -> dict[str, Any]:
    """Returns the name of a split's samples, and how they are judged."""
    config = self.store.config.task.yes_no
    return {
      f"{split}_examples": self._used[split].fingerprint,
      "task": {
        "name": self.name,
        "noun": config.noun,
        "eval_steps": config.eval_steps,
      },
    }

  def selection(self, network: protocol.Network) -> "selection.Selection":
    """Returns the choice by AUC on valid."""
    from bigrec_jax.tasks.yes_no import scoring
    from bigrec_jax.training import selection

    config = self.store.config.task.yes_no
    valid = self._used["valid"]
    scorer = scoring.Scorer(network, self.samples("valid"), config.batch_size)

    def measure(adapter: Any) -> float:
      return auc(valid, scorer.probabilities(adapter))

    return selection.Selection(METRIC, True, measure, config.eval_steps)

  def evaluate(self, evidence: protocol.Evidence) -> list[rows.TaskRow]:
    """Returns the AUC of TALLRec, of the untuned base and of CF models."""
    from bigrec_jax.tasks.yes_no import scoring

    tuned = evidence.tuned()
    nothing = tuned.without_adapter.adapter
    found = []
    for split in protocol.SPLITS:
      size = self.store.config.task.yes_no.batch_size
      scorer = scoring.Scorer(tuned.network, self.samples(split), size)
      count = 2 * len(self._used[split])
      with evidence.progress(f"score {split}", count, "samples") as bar:
        for system, adapter in ((SYSTEM, tuned.adapter), (UNTUNED, nothing)):
          about = f"{split} {system}", len(self._used[split]), 2
          kept = parts.Vectors(evidence.parts, *about)
          try:
            scores = scorer.probabilities(adapter, bar, kept)
          except errors.NonFiniteError as error:
            name = f"{system}, {self.samples(split).name(error.row)}"
            raise error.of(error.row, name) from None
          found.append(self._row(split, system, [scores]))
    return [*found, *self._cf_rows(evidence)]

  def _cf_rows(self, evidence: protocol.Evidence) -> list[rows.TaskRow]:
    """Returns the AUC of CF models trained on the same samples."""
    store = self.store
    found: list[rows.TaskRow] = []
    models = cf.names(store.config.task.yes_no)
    if not models:
      return found
    with evidence.progress("train CF", len(models), "models") as bar:
      for model in models:
        scores = evidence.parts.once(
          f"scores of {model}", functools.partial(self._cf_scores, model)
        )
        found += [self._row(s, model, list(scores[s])) for s in protocol.SPLITS]
        bar.update(1)
    return found

  def _cf_scores(self, model: str) -> parts.Arrays:
    """Returns scores [seeds, N] of each split by a CF model, trained here."""
    store = self.store
    found = cf.scores(
      model, self._used, store.config, len(store.catalogue), store.mesh
    )
    return {split: np.stack(scores) for split, scores in found.items()}

  def evaluated_from(self) -> dict[str, Any]:
    """Returns what the rows depend on beside texts, base and adapter."""
    return {
      "bootstrap_samples": self.store.config.ground.bootstrap_samples,
      "seed": self.store.config.seed,
      "train": self._used["train"].fingerprint,
      "cf": cf.made_from(self.store.config),
    }

  def _row(
    self, split: str, system: str, scores: list[np.ndarray]
  ) -> rows.TaskRow:
    """Returns the mean AUC over seeds; the interval is of the first's."""
    config, used = self.store.config, self._used[split]
    values = [auc(used, one) for one in scores]
    users = clusters.of_owners(used.user)
    interval = metrics.bootstrap_ci95(
      lambda drawn: metrics.roc_auc(used.label[drawn], scores[0][drawn]),
      len(used),
      config.ground.bootstrap_samples,
      config.seed,
      users,
    )
    return rows.TaskRow(
      split,
      system,
      {METRIC: float(np.mean(values))},
      {METRIC: interval},
      len(used),
      [config.seed + k for k in range(len(scores))],
      clusters.count(users),
      {"score": scores[0], "label": used.label},
    )


def auc(used: samples.Samples, scores: np.ndarray) -> float:
  """Returns the ROC-AUC of a split.

  Raises:
    UserError: all its samples have one label.
  """
  value = metrics.roc_auc(used.label, scores)
  if math.isnan(value):
    raise errors.UserError(
      f"config.data.num_{used.split}: {len(used)} samples, all of them"
      f" {texts.answer(bool(used.label[0]))} found, both answers expected:"
      " the AUC compares them"
    )
  return value
