"""Cao et al., 2024: recommendation knowledge as samples beside the task's own.

"Aligning Large Language Models with Recommendation Knowledge", NAACL Findings
(arXiv 2404.00245): a language model learns retrieval, ranking and rating
prediction, mixed with masked items (MIM), masked words (MLM) and preferences
between two items (BPR) in words. There is no published code; prompts, counts
and mixture are a reconstruction (docs/systems.md).

What is asked is here, who answers is not: a sample is a prompt and an answer,
so an encoder-decoder reads the same ones (`blank` is then T5's).
"""

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from bigrec_jax import errors
from bigrec_jax.data.prepared import splits
from bigrec_jax.data.prepared.examples import load_examples
from bigrec_jax.results import rows
from bigrec_jax.tasks import cf_files, next_title, protocol
from bigrec_jax.tasks.auxiliary import (
  known,
  mixture,
  samples as samples_lib,
)
from bigrec_jax.tasks.auxiliary.negatives import Negatives
from bigrec_jax.tasks.auxiliary.wording import Wording
from bigrec_jax.workdir import fingerprints

if TYPE_CHECKING:
  from bigrec_jax.training import selection

# Different ratings above which they are no classes to choose from.
_MOST_LEVELS = 20
_KEY = "config.task.auxiliary"


class Task(protocol.Task):
  """Cao et al."""

  name = "auxiliary"
  computes = True

  def __init__(self, store: protocol.Store):
    """Finds out which of the recommendation tasks are learnt.

    Raises:
      UserError: none of them is.
    """
    super().__init__(store)
    weights = store.config.task.auxiliary.weights.by_kind
    asked = [kind for kind in samples_lib.RECOMMENDATION if weights[kind]]
    if not asked:
      raise errors.UserError(
        f"{_KEY}.weights: 0 for retrieval, ranking and rating found, one of"
        " them above 0 expected: it is what is measured"
      )
    self.decodes = "retrieval" in asked
    self._asked = asked

  @functools.cached_property
  def _wording(self) -> Wording:
    store = self.store
    config = store.config.task.auxiliary
    return Wording(
      store.catalogue,
      store.prompt,
      known.read(config, store.catalogue, store.paths.attributes),
      config,
      lambda text: store.tokenizer.special.mark(text),
    )

  @functools.cached_property
  def _train(self) -> samples_lib.Samples:
    """What training reads: nothing that only valid or test know."""
    store = self.store
    examples = store.examples("train")
    negatives = Negatives(
      lambda: [examples],
      store.catalogue.groups,
      store.catalogue.popularity > 0,
    )
    return samples_lib.Samples(
      examples,
      self._wording,
      store.config.task.auxiliary,
      negatives,
      store.config.seed,
    )

  @functools.cached_property
  def _had(self) -> Negatives:
    """Those of valid and test are of items that a user never had at all."""
    paths = self.store.paths
    return Negatives(
      lambda: [load_examples(paths, split, -1, 0) for split in splits.SPLITS],
      self.store.catalogue.groups,
      np.ones(len(self.store.catalogue), bool),
    )

  def _held_out(self, split: str) -> samples_lib.Samples:
    store = self.store
    return samples_lib.Samples(
      store.examples(split),
      self._wording,
      store.config.task.auxiliary,
      self._had,
      store.config.data.sample_seed,  # Seeds are compared on the same lists.
    )

  @functools.cached_property
  def _mixture(self) -> mixture.Mixture:
    store, samples = self.store, self._train
    config = store.config.task.auxiliary
    found = []
    for kind, weight in config.weights.by_kind.items():
      if not weight:
        continue
      if kind == "rating" and not self._rates:
        continue
      own = mixture.part(samples, kind, weight, store.config.seed)
      if not len(own):
        logging.warning(
          "%s.weights.%s: no train row has what it takes, so it is left out",
          _KEY,
          kind,
        )
      found.append(own)
    made_from = self._drawn_from(samples.seed, config.weights.by_kind)
    return mixture.Mixture(samples, tuple(found), made_from)

  def _check(self) -> None:
    """Raises UserError where there are too few items to draw from."""
    config = self.store.config.task.auxiliary
    key, weights = f"{_KEY}.candidates", config.weights
    most = config.candidates - 1 if weights.ranking else int(weights.bpr > 0)
    self._train.negatives.check(self._train.examples, most, key)
    if weights.ranking:
      for split in protocol.SPLITS:
        self._had.check(self.store.examples(split), most, key)

  @functools.cached_property
  def _rates(self) -> bool:
    """Whether ratings are learnt: they are asked for, and there are some."""
    if "rating" not in self._asked:
      return False
    levels = samples_lib.levels_of(self.store.examples("train"))
    if 2 <= len(levels) <= _MOST_LEVELS:
      return True
    text = (
      f"{len(levels)} different ratings found in the train rows, 2 to"
      f" {_MOST_LEVELS} expected"
    )
    if self._asked == ["rating"]:
      raise errors.UserError(f"{_KEY}.weights.rating: {text}")
    logging.warning(
      "%s.weights.rating: %s; rating prediction is left out", _KEY, text
    )
    return False

  def _drawn_from(self, seed: int, weights: dict[str, float]) -> str:
    """Names what samples depend on beside rows and wording.

    Args:
      seed: of what is drawn.
      weights: of the kinds, where they count.
    """
    config = self.store.config.task.auxiliary
    return fingerprints.of_value(
      [
        self.store.manifest.fingerprint,  # Ratings, and who had what.
        seed,
        [config.candidates, config.window, config.masked_items],
        [config.mask_rate, weights],
      ]
    )

  def _questions(self, split: str, kind: str) -> mixture.Mixture:
    """Returns the samples of one kind of a held-out split."""
    samples = self._held_out(split)
    own = mixture.part(samples, kind, 1.0, samples.seed)
    # What retrieval reads depends on no option of the other kinds.
    retrieves = kind == "retrieval"
    made_from = "" if retrieves else self._drawn_from(samples.seed, {})
    return mixture.Mixture(samples, (own,), made_from)

  def samples(self, split: str) -> mixture.Mixture:
    """Returns the mixture of train; of valid and test the first task's.

    So the best epoch is that of retrieval, where it is learnt, whatever is
    mixed in.
    """
    if split == "train":
      return self._mixture
    return self._questions(split, self._asked[0])

  def num_samples(self, split: str) -> int | None:
    """Returns the number of all samples that training reads."""
    return len(self._mixture) if split == "train" else None

  def selection(self, network: protocol.Network) -> "selection.Selection":
    """Returns the choice by eval loss, after what would fail late is checked.

    Args:
      network: the one in training.
    """
    self._check()
    return super().selection(network)

  def corpus(self) -> next_title.Titles:
    """Returns all train rows as BIGRec words them.

    A base made in the workdir is so the same for any mixture.
    """
    store = self.store
    examples = load_examples(store.paths, "train", -1, 0)
    return next_title.Titles(examples, store.catalogue, store.prompt)

  def made_from(self, split: str) -> dict[str, Any]:
    """Returns the names of a split's texts, and the weights."""
    return {
      f"{split}_examples": self.samples(split).fingerprints[0],
      "task": {
        "name": self.name,
        "weights": self.store.config.task.auxiliary.weights.by_kind,
      },
    }

  def legal_answers(self) -> list[str]:
    """Returns every title, or every id, as the model is taught to write it."""
    return list(self._wording.answers)

  def answers_of_items(self) -> np.ndarray:
    """Returns the place of each item's answer among the answers, [I]."""
    wording = self._wording
    items = range(len(self.store.catalogue))
    return np.array([wording.answers[wording.answer(n)] for n in items])

  def evaluated_from(self) -> dict[str, Any]:
    """Returns what the rows depend on beside texts, base and adapter."""
    store = self.store
    config = store.config
    return {
      "cutoffs": config.ground.cutoffs,
      "bootstrap_samples": config.ground.bootstrap_samples,
      "length_penalty": config.generate.length_penalty,
      "popularity": fingerprints.of_value(store.catalogue.popularity.tolist()),
      "cf": cf_files.made_from(store),
      "train": self._mixture.fingerprints[0],
      "prompt": config.to_dict()["prompt"],
      "asked": {
        split: [self._questions(split, k).fingerprints[0] for k in self._asked]
        for split in protocol.SPLITS
      },
      "seed": config.seed,
    }

  def evaluate(self, evidence: protocol.Evidence) -> list[rows.TaskRow]:
    """Returns what was mixed, and the rows of each task that is learnt."""
    # Not at the top: a task is found before anything heavy is needed.
    from bigrec_jax.tasks.auxiliary import evaluation

    self._check()
    store = self.store
    evidence = dataclasses.replace(
      evidence, tuned=functools.cache(evidence.tuned)
    )
    weights = store.config.task.auxiliary.weights
    cf_files.tell_missing(store)
    found = [evaluation.mixture(store, self._mixture, weights)]
    for split in protocol.SPLITS:
      samples = self._held_out(split)
      if "retrieval" in self._asked:
        found += evaluation.retrieval(store, samples, evidence)
      if "ranking" in self._asked:
        questions = self._questions(split, "ranking")
        found += evaluation.ranking(store, samples, questions, evidence)
      if self._rates:
        questions = self._questions(split, "rating")
        train = store.examples("train")
        found += evaluation.rating(store, samples, questions, train, evidence)
    return found
