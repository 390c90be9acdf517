"""What titles of the history reach by their words, with CF and without."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrec_jax.results import paired_tests
from bigrec_jax.stages import report_row, systems
from bigrec_jax.stages.session import Session
from bigrec_jax.workdir import parts as parts_lib

if TYPE_CHECKING:
  from bigrec_jax.rankers import bm25, bm25_choice, protocol

SPLITS = ("valid", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Words:
  """BM25 of the history's titles, as valid likes it best.

  Attributes:
    terms: of the catalogue.
    choice: k1 and b.
    index: by these.
  """

  terms: "bm25.Terms"
  choice: "bm25_choice.Choice"
  index: "bm25.Index"

  def ranker(self, history: np.ndarray) -> "protocol.Ranker":
    """Returns what ranks items for users with these histories, [N, H]."""
    return self.index.ranker(self.terms.history_counts(history))

  def reader(self, history: np.ndarray) -> Callable[[slice], np.ndarray]:
    """Returns what makes the scores [n, I] float32 of some of N users.

    Args:
      history: [N, H] catalogue rows, padded with -1.
    """
    queries = self.terms.history_counts(history)
    return lambda users: self.index.scores(queries[users])


def choose(session: Session, once: parts_lib.Once) -> Words:
  """Returns BM25 with the parameters that rank valid best.

  Args:
    session: configuration and workdir.
    once: knows which settings were tried before a kill.
  """
  from bigrec_jax.rankers import bm25, bm25_choice

  config, catalogue = session.config, session.catalogue
  ground, valid = config.ground, session.examples("valid")
  terms = bm25.Terms(catalogue.titles)
  choice, index = bm25_choice.by_history(
    terms,
    catalogue.groups,
    valid.history,
    valid.target,
    config.bm25,
    session.mesh,
    most_users=ground.batch_size,
    duplicates=ground.duplicates,
    once=once,
  )
  return Words(terms, choice, index)


def rows(
  session: Session,
  words: Words,
  cf: Mapping[str, Any],
  once: parts_lib.Once,
) -> systems.Measured:
  """Returns rows of BM25 and of BM25 with CF.

  Ranks go by the names of baselines (results/paired_tests.py).

  Args:
    session: configuration and workdir.
    words: BM25.
    cf: scores [N, I] of the splits, None where there are none.
    once: knows what was ranked before a kill.
  """
  from bigrec_jax.rankers import (
    bm25_choice,
    cf as cf_rankers,
    dense,
    duplicates,
    engine,
  )
  from bigrec_jax.rankers.combine import weighted_sum

  config, catalogue = session.config, session.catalogue
  ground, examples = config.ground, {s: session.examples(s) for s in SPLITS}
  groups = duplicates.groups_by(ground.duplicates, catalogue.groups)
  targets = {
    s: duplicates.targets_by(
      ground.duplicates, examples[s].target, catalogue.groups
    )
    for s in SPLITS
  }
  alone = {
    s: dense.Dense(words.reader(examples[s].history), len(catalogue))
    for s in SPLITS
  }
  rankers: dict[str, dict[str, protocol.Ranker]] = {"bm25": {**alone}}
  measured = systems.Measured()
  if all(cf[split] is not None for split in SPLITS):
    parts = {s: [alone[s], cf_rankers.of_scores(cf[s])] for s in SPLITS}
    few = bm25_choice.users_to_choose_by(len(targets["valid"]), len(catalogue))
    combiner = weighted_sum.WeightedSum(
      session.mesh, most_users=ground.batch_size, groups=groups, once=once
    ).fit(parts["valid"], targets["valid"][:few])
    rankers["bm25+cf"] = {s: combiner(parts[s]) for s in SPLITS}
    measured.fitted["bm25+cf"] = {
      "weights": dict(zip(("bm25", "cf"), combiner.weights, strict=True)),
      "tried": combiner.tried,
      "says": _says(*combiner.weights),
    }
  ranks_of = {
    s: engine.Ranks(
      targets[s],
      len(catalogue),
      session.mesh,
      most_users=ground.batch_size,
      groups=groups,
    )
    for s in SPLITS
  }
  for name, by_split in rankers.items():
    for s in SPLITS:
      ranks = engine.ranks_once(once, f"{name} {s}", ranks_of[s], by_split[s])
      measured.ranks[s][paired_tests.BASELINE + name] = ranks
      measured.rows.append(report_row.of(session, name, s, ranks))
  return measured


def _says(words: float, cf: float) -> list[str]:
  """Returns the weights as the report says them."""
  return [
    f"Of a score, {words:.0%} is BM25 of the history's titles and {cf:.0%} the"
    " CF score, each from 0 to 1 over a user's items."
  ]
