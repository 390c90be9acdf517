"""M6-Rec: one language model, several ways to score candidates (heads.py).

Cui et al., 2022 (arXiv 2205.08084); a reconstruction (docs/systems.md). All
heads of `task.heads.heads` are trained in one run, on the same positives (the
next item) and negatives (items drawn at random), and judged on the same
candidates: AUC, and recall and NDCG among them. Beside them the base's
length-normalised likelihood, popularity, and the towers over all items. Every
row has the operations that a user's candidates cost.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrec_jax import errors
from bigrec_jax.data.prepared.examples import Examples, load_examples
from bigrec_jax.results import clusters, metrics, rows
from bigrec_jax.tasks import protocol
from bigrec_jax.tasks.heads import samples as samples_lib
from bigrec_jax.workdir import fingerprints, parts as parts_lib

if TYPE_CHECKING:
  from bigrec_jax.models import Architecture, own_weights
  from bigrec_jax.tasks.heads import evaluation
  from bigrec_jax.training import objective

_COST = "gflops"


class Task(protocol.Task):
  """M6-Rec's heads."""

  name = "heads"
  computes = True
  mixes = False
  batches = ("generate.batch_size",)
  objectives = ("heads",)
  has_own_weights = True

  def __init__(self, store: protocol.Store):
    """Checks the options.

    Raises:
      UserError: an option is another system's.
    """
    super().__init__(store)
    style = store.config.prompt.style
    if style != "consistent":
      raise errors.UserError(
        f"config.prompt.style: {style!r} found, 'consistent' expected: task"
        " heads has a layout of its own, of pieces that read alike anywhere"
      )

  def _clicks(
    self, examples: Examples, others: int, seed: int
  ) -> samples_lib.Clicks:
    store = self.store
    # What text a row may carry itself is another system's.
    kept = dataclasses.replace(examples, overrides={})
    own = kept, store.catalogue, store.prompt
    return samples_lib.Clicks(*own, others, seed)

  def samples(self, split: str) -> samples_lib.Clicks:
    """Returns the rows of the configuration, with negatives."""
    config = self.store.config
    examples = self.store.examples(split)
    return self._clicks(examples, config.task.heads.negatives, config.seed)

  def corpus(self) -> samples_lib.Clicks:
    """Returns all train rows, in the order of seed 0."""
    every = load_examples(self.store.paths, "train", -1, 0)
    return self._clicks(every, 0, 0)

  def _judged(self, split: str) -> samples_lib.Clicks:
    """Returns the rows of a split with the candidates that are judged."""
    config = self.store.config
    others = config.task.heads.candidates - 1
    seed = config.data.sample_seed
    return self._clicks(self.store.examples(split), max(others, 0), seed)

  def made_from(self, split: str) -> dict[str, Any]:
    """Returns the names of a split's rows, and of the heads."""
    config = self.store.config.to_dict()["task"]["heads"]
    config.pop("candidates")
    examples = self.store.examples(split).fingerprint
    task = {"name": self.name, **config}
    return {f"{split}_examples": examples, "task": task}

  def own_weights(self, arch: "Architecture") -> "own_weights.Spec":
    """Returns the heads' weights.

    Raises:
      UserError: the network has too few layers for late interaction.
    """
    from bigrec_jax.models import own_weights
    from bigrec_jax.tasks.heads import heads

    config = self.store.config.task.heads
    if "late" in config.heads and config.late_layers >= arch.num_hidden_layers:
      raise errors.UserError(
        f"config.task.heads.late_layers: {config.late_layers} found, fewer than"
        f" the {arch.num_hidden_layers} layers of the base expected"
      )
    return own_weights.Spec(heads.weights(config, arch), {})

  def objective(self) -> "objective.Objective":
    """Returns the sum of the heads' losses."""
    from bigrec_jax.tasks.heads import objective

    return objective.HeadsLoss(self.store.config.task.heads)

  def evaluated_from(self) -> dict[str, Any]:
    """Returns what the rows depend on beside texts, base and adapter."""
    config = self.store.config
    return {
      "candidates": config.task.heads.candidates,
      "sample_seed": config.data.sample_seed,  # Of the candidates.
      "prompt": config.to_dict()["prompt"],
      "cutoffs": config.ground.cutoffs,
      "bootstrap_samples": config.ground.bootstrap_samples,
      "length_buckets": config.train.length_buckets,
      "max_length": config.train.max_length,
      "popularity": fingerprints.of_value(
        self.store.catalogue.popularity.tolist()
      ),
      "seed": config.seed,
    }

  def evaluate(self, evidence: protocol.Evidence) -> list[rows.TaskRow]:
    """Returns AUC, recall, NDCG and cost of every head."""
    from bigrec_jax.tasks.heads import evaluation

    own, config = self.store.config.task.heads, self.store.config
    judge = evaluation.Heads(evidence.tuned(), self._judged("test"), config)
    found: list[rows.TaskRow] = []
    for split in protocol.SPLITS:
      clicks = self._judged(split)
      systems = [*own.heads, evaluation.LIKELIHOOD]
      for head in systems:
        scored = self._scored(evidence, split, head, judge, clicks)
        found.append(self._row(split, head, clicks, scored))
        if head == "towers":
          found.append(self._retrieved(evidence, split, judge, clicks))
      popular = clicks.pool.best(self.store.catalogue.popularity)
      drawn = clicks.drawn(range(len(clicks)))
      plain = evaluation.Scored(popular[drawn].astype(np.float32), 0.0)
      found.append(self._row(split, "most_pop", clicks, plain))
    return found

  def _scored(
    self,
    evidence: protocol.Evidence,
    split: str,
    head: str,
    judge: "evaluation.Heads",
    clicks: samples_lib.Clicks,
  ) -> "evaluation.Scored":
    """Returns the scores of a head, or those known from before a kill."""
    from bigrec_jax.tasks.heads import evaluation

    def make() -> parts_lib.Arrays:
      with evidence.progress(f"{head} {split}", len(clicks), "users") as bar:
        scored = judge.scores(head, clicks, bar)
      return {"scores": scored.scores, "cost": np.array([scored.gflops])}

    kept = evidence.parts.once(f"{split} {head}", make)
    return evaluation.Scored(kept["scores"], float(kept["cost"][0]))

  def _retrieved(
    self,
    evidence: protocol.Evidence,
    split: str,
    judge: "evaluation.Heads",
    clicks: samples_lib.Clicks,
  ) -> rows.TaskRow:
    """Returns the row of the towers over all titles."""
    from bigrec_jax.cf.factors import Factors
    from bigrec_jax.rankers import cf as cf_rankers, engine
    from bigrec_jax.tasks.heads import evaluation

    name = evaluation.ALL_ITEMS

    def make() -> parts_lib.Arrays:
      with evidence.progress(f"{name} {split}", len(clicks), "users") as bar:
        users = judge.user_vectors(clicks, bar)
      ranks_of = engine.Ranks(
        clicks.right,
        len(clicks.pool),
        self.store.mesh,
        most_users=self.store.config.ground.batch_size,
      )
      factors = Factors(users.scores, judge.item_vectors)
      ranks = ranks_of(cf_rankers.Factorised(factors))
      width, count = factors.items.shape[::-1]
      cost = users.gflops + 2e-9 * width * count
      return {"ranks": ranks, "cost": np.array([cost])}

    kept = evidence.parts.once(f"{split} {name}", make)
    users = clusters.of_owners(clicks.examples.owners)
    cost = float(kept["cost"][0])
    return self._measured(split, name, kept["ranks"], cost, users)

  def _row(
    self,
    split: str,
    head: str,
    clicks: samples_lib.Clicks,
    scored: "evaluation.Scored",
  ) -> rows.TaskRow:
    """Returns the row of scores [N, M], with the AUC over all pairs."""
    from bigrec_jax.tasks.title_likelihood import ranking

    candidates = clicks.drawn(range(len(clicks)))
    owners = clicks.examples.owners
    asked = ranking.Asked(candidates, clicks.right, owners)
    own = clusters.of_owners(owners)
    found = self._measured(
      split, head, asked.ranks(scored.scores), scored.gflops, own
    )
    labels = candidates == clicks.right[:, None]
    config = self.store.config

    def auc(users: np.ndarray) -> float:
      return metrics.roc_auc(
        labels[users].ravel(), scored.scores[users].ravel()
      )

    count = len(clicks)
    interval = metrics.bootstrap_ci95(
      auc, count, config.ground.bootstrap_samples, config.seed, own
    )
    values = {"auc": auc(np.arange(count)), **found.metrics}
    return rows.TaskRow(
      split,
      head,
      values,
      {"auc": interval, **found.ci95},
      count,
      [config.seed],
      clusters.count(own),
      found.each,
    )

  def _measured(
    self,
    split: str,
    head: str,
    ranks: np.ndarray,
    cost: float,
    users: clusters.Clusters | None,
  ) -> rows.TaskRow:
    """Returns recall and NDCG of ranks [N], and what a user costs."""
    config = self.store.config
    values: dict[str, float] = {}
    intervals = {}
    draws, seed = config.ground.bootstrap_samples, config.seed
    for k in config.ground.cutoffs:
      for name, known in (("recall", "hr"), ("ndcg", "ndcg")):
        values[f"{name}@{k}"] = metrics.METRICS[known](ranks, k)
        intervals[f"{name}@{k}"] = metrics.ci95(
          ranks, known, k, draws, seed, users
        )
    values[_COST] = cost
    about = values, intervals, len(ranks), [seed], clusters.count(users)
    return rows.TaskRow(split, head, *about, {"rank": ranks})
