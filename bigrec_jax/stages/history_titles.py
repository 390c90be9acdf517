"""What titles of the history reach by their words, with CF and without."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrec_jax.results import rows as rows_lib
from bigrec_jax.stages.session import Session

if TYPE_CHECKING:
  from bigrec_jax.rankers import protocol

SPLITS = ("valid", "test")


def rows(
  session: Session, cf: Mapping[str, Any]
) -> tuple[list[rows_lib.BaselineRow], dict[str, float]]:
  """Returns rows of BM25 and of BM25 with CF, and the former's parameters.

  Args:
    session: configuration and workdir.
    cf: scores [N, I] of the splits, None where there are none.
  """
  from bigrec_jax.rankers import bm25_choice, evaluate

  config, catalogue = session.config, session.catalogue
  choice, ranks = bm25_choice.history_ranks(
    catalogue.titles,
    catalogue.groups,
    {
      s: (session.examples(s).history, session.examples(s).target)
      for s in SPLITS
    },
    config.bm25,
    session.mesh,
    most_users=config.ground.batch_size,
    duplicates=config.ground.duplicates,
  )
  found = {"bm25": ranks}
  if all(cf[split] is not None for split in SPLITS):
    found["bm25+cf"] = _with_cf(session, choice, cf)
  measured = [
    evaluate.report_row(
      by_split[split], config.ground, config.seed, name=name, split=split
    )
    for name, by_split in found.items()
    for split in SPLITS
  ]
  return measured, choice.to_json()


def _with_cf(
  session: Session, choice: Any, cf: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """Returns ranks [N] by split of both scores added, weighted by valid."""
  from bigrec_jax.rankers import (
    bm25,
    bm25_choice,
    cf as cf_rankers,
    duplicates,
    engine,
  )
  from bigrec_jax.rankers.combine import weighted_sum

  ground, catalogue = session.config.ground, session.catalogue
  terms = bm25.Terms(catalogue.titles)
  index = bm25.Index(terms, choice.settings)
  groups = duplicates.groups_by(ground.duplicates, catalogue.groups)
  targets = {
    s: duplicates.targets_by(
      ground.duplicates, session.examples(s).target, catalogue.groups
    )
    for s in SPLITS
  }
  parts: dict[str, list[protocol.Ranker]] = {
    s: [
      index.ranker(terms.history_counts(session.examples(s).history)),
      cf_rankers.of_scores(cf[s]),
    ]
    for s in SPLITS
  }
  few = bm25_choice.users_to_choose_by(len(targets["valid"]), len(catalogue))
  combiner = weighted_sum.WeightedSum(
    session.mesh, most_users=ground.batch_size, groups=groups
  ).fit(parts["valid"], targets["valid"][:few])
  return {
    s: engine.Ranks(
      targets[s],
      len(catalogue),
      session.mesh,
      most_users=ground.batch_size,
      groups=groups,
    )(combiner(parts[s]))
    for s in SPLITS
  }
