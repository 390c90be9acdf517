"""GPT4Rec's lists and those of others, on the same users by the same metrics.

Lists have each title once; histories stay candidates. recall@K is HR@K of
the list, for there is one target. k1 and b of BM25 are chosen on valid, after
training, for each system that has them, by NDCG@20.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from bigrec_jax.cf.scores import Scores
from bigrec_jax.config import Config
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.rankers import (
  baselines,
  beam_queries,
  bm25,
  bm25_choice,
  cf as cf_rankers,
  protocol,
  title_lists,
)
from bigrec_jax.rankers.combine import calibrate
from bigrec_jax.results import clusters, list_metrics, metrics
from bigrec_jax.results.rows import TaskRow
from bigrec_jax.workdir import parts

SYSTEM, ONE_QUERY = "gpt4rec", "gpt4rec, one query"
# Lists [N, K] of a system by K, and the parameters that it was given.
Found = tuple[Mapping[int, np.ndarray], Mapping[str, float]]


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """What is judged on a split of N users.

  Attributes:
    queries: of each user, cleaned, best first.
    history: [N, H] catalogue rows, padded with -1.
    targets: [N] catalogue rows.
    cf_scores: [N, I]; None = no CF.
    owners: [N] equal for rows of one user; None = each is a user's only one.
  """

  queries: Sequence[Sequence[str]]
  history: np.ndarray
  targets: np.ndarray
  cf_scores: Scores | None
  owners: np.ndarray | None = None


class Judge:
  """Makes and measures the lists of all systems."""

  def __init__(
    self,
    catalogue: Catalogue,
    config: Config,
    mesh: Mesh,
    once: parts.Once = parts.at_once,
  ):
    """Reads the titles.

    Args:
      catalogue: what is recommended.
      config: `ground` has cutoffs, batch size and bootstrap, `bm25` the
        parameters to choose from.
      mesh: all its devices share the items.
      once: knows the ranks of settings of BM25 that were tried before a kill.
    """
    self._once = once
    self._catalogue, self._config, self._mesh = catalogue, config, mesh
    self._terms = bm25.Terms(catalogue.titles)
    self._tokens = self._terms.presence()
    self._retrieve = beam_queries.Retriever(
      self._terms, catalogue.groups, mesh, config.ground.batch_size
    )

  def rows(
    self,
    splits: Mapping[str, Split],
    progress: Callable[[str, int, str], Any],
  ) -> list[TaskRow]:
    """Returns a row of each split and system.

    Args:
      splits: valid, where parameters are chosen, and test.
      progress: of `tasks.protocol.Evidence`.
    """
    valid = splits["valid"]
    systems: dict[str, Callable[[Split], Found]] = {}
    systems[SYSTEM] = self._by_queries(valid, None)
    if max(map(len, valid.queries)) > 1:
      systems[ONE_QUERY] = self._by_queries(valid, 1)
    systems["bm25"] = self._by_history(valid)
    systems["most_pop"] = self._by(
      lambda split: baselines.MostPopular(self._catalogue.popularity)
    )
    if valid.cf_scores is not None:
      systems[self._config.ground.injected_cf or "cf"] = self._by(_by_cf)
    found = []
    with progress("retrieve", len(splits) * len(systems), "lists") as bar:
      for name, split in splits.items():
        for system, lists_of in systems.items():
          found.append(self._row(name, system, split, *lists_of(split)))
          bar.update(1)
    return found

  def _by_queries(
    self, valid: Split, most: int | None
  ) -> Callable[[Split], Found]:
    """Returns what lists by the first `most` queries of each user, or all."""

    def lists(
      index: bm25.Index, split: Split, cutoffs: Sequence[int]
    ) -> dict[int, np.ndarray]:
      queries = [own[:most] for own in split.queries]
      texts = [text for own in queries for text in own]
      found = self._retrieve(index, texts, max(cutoffs))
      return {k: beam_queries.lists(found, queries, k) for k in cutoffs}

    def ranks(index: bm25.Index) -> np.ndarray:
      k = calibrate.SINGLE_CUTOFF
      return self._ranks(valid, lists(index, valid, [k])[k])

    choice, index = bm25_choice.choose(
      self._terms,
      self._config.bm25,
      ranks,
      parts.within(self._once, f"{most or 'all'} queries"),
    )
    return lambda split: (
      lists(index, split, self._config.ground.cutoffs),
      dataclasses.asdict(choice.settings),
    )

  def _by_history(self, valid: Split) -> Callable[[Split], Found]:
    """Returns what lists by the titles of the history as one query."""
    ground = self._config.ground
    choice, index = bm25_choice.by_history(
      self._terms,
      self._catalogue.groups,
      valid.history,
      valid.targets,
      self._config.bm25,
      self._mesh,
      most_users=ground.batch_size,
      duplicates=ground.duplicates,
      once=self._once,
    )
    counts = self._terms.history_counts
    lists = self._by(lambda split: index.ranker(counts(split.history)))
    settings = dataclasses.asdict(choice.settings)
    return lambda split: (lists(split)[0], settings)

  def _by(
    self, ranker: Callable[[Split], protocol.Ranker]
  ) -> Callable[[Split], Found]:
    """Returns what lists by a ranker: the first K of one list."""
    ground = self._config.ground

    def lists(split: Split) -> Found:
      longest = title_lists.title_lists(
        ranker(split),
        len(split.targets),
        self._catalogue.groups,
        self._mesh,
        k=max(ground.cutoffs),
        most_users=ground.batch_size,
      )
      return {k: longest[:, :k] for k in ground.cutoffs}, {}

    return lists

  def _ranks(self, split: Split, lists: np.ndarray) -> np.ndarray:
    return list_metrics.target_ranks(
      lists, split.targets, self._catalogue.groups
    )

  def _row(
    self,
    name: str,
    system: str,
    split: Split,
    lists: Mapping[int, np.ndarray],
    settings: Mapping[str, float],
  ) -> TaskRow:
    """Measures the lists of a system; parameters stand behind the metrics."""
    values: dict[str, float] = {}
    intervals: dict[str, Sequence[float]] = {}
    each: dict[str, np.ndarray] = {}
    samples, seed = self._config.ground.bootstrap_samples, self._config.seed
    users = clusters.of_owners(split.owners)
    for k, own in lists.items():
      ranks = each[f"rank@{k}"] = self._ranks(split, own)
      for metric, known in (("recall", "hr"), ("ndcg", "ndcg")):
        values[f"{metric}@{k}"] = metrics.METRICS[known](ranks, k)
        intervals[f"{metric}@{k}"] = metrics.ci95(
          ranks, known, k, samples, seed, users
        )
      for metric, of_users in (
        ("diversity", list_metrics.diversity(own, self._tokens)),
        ("coverage", list_metrics.coverage(own, split.history, self._tokens)),
      ):
        there = ~np.isnan(of_users)
        of_users = of_users[there]
        if len(of_users):
          of_whom = None if users is None else users.take(there)
          values[f"{metric}@{k}"] = float(of_users.mean())
          intervals[f"{metric}@{k}"] = metrics.bootstrap_ci95(
            functools.partial(_mean, of_users),
            len(of_users),
            samples,
            seed,
            of_whom,
          )
    values |= settings
    about = values, intervals, len(split.targets), [seed]
    return TaskRow(name, system, *about, clusters.count(users), each)


def _by_cf(split: Split) -> protocol.Ranker:
  assert split.cf_scores is not None  # Both splits have them, or none.
  return cf_rankers.of_scores(split.cf_scores)


def _mean(values: np.ndarray, drawn: np.ndarray) -> float:
  return float(values[drawn].mean())
