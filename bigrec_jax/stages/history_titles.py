"""What titles of the history reach by their words, with CF and without."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bigrec_jax.results import paired_tests
from bigrec_jax.stages import systems
from bigrec_jax.stages.session import Session
from bigrec_jax.workdir import parts as parts_lib

if TYPE_CHECKING:
  from bigrec_jax.rankers import protocol

SPLITS = ("valid", "test")


def rows(
  session: Session, cf: Mapping[str, Any], once: parts_lib.Once
) -> tuple[systems.Measured, dict[str, float]]:
  """Returns rows of BM25 and of BM25 with CF, and the former's parameters.

  Ranks go by the names of baselines (results/paired_tests.py).

  Args:
    session: configuration and workdir.
    cf: scores [N, I] of the splits, None where there are none.
    once: knows what was ranked, and which settings were tried, before a kill.
  """
  from bigrec_jax.rankers import (
    bm25,
    bm25_choice,
    cf as cf_rankers,
    duplicates,
    engine,
    evaluate,
  )
  from bigrec_jax.rankers.combine import weighted_sum

  config, catalogue = session.config, session.catalogue
  ground, examples = config.ground, {s: session.examples(s) for s in SPLITS}
  terms, valid = bm25.Terms(catalogue.titles), examples["valid"]
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
  groups = duplicates.groups_by(ground.duplicates, catalogue.groups)
  targets = {
    s: duplicates.targets_by(
      ground.duplicates, examples[s].target, catalogue.groups
    )
    for s in SPLITS
  }
  words = {
    s: index.ranker(terms.history_counts(examples[s].history)) for s in SPLITS
  }
  rankers: dict[str, dict[str, protocol.Ranker]] = {"bm25": {**words}}
  measured = systems.Measured()
  if all(cf[split] is not None for split in SPLITS):
    parts = {s: [words[s], cf_rankers.of_scores(cf[s])] for s in SPLITS}
    few = bm25_choice.users_to_choose_by(len(valid), len(catalogue))
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
      measured.rows.append(
        evaluate.report_row(ranks, ground, config.seed, name=name, split=s)
      )
  return measured, choice.to_json()


def _says(words: float, cf: float) -> list[str]:
  """Returns the weights as the report says them."""
  return [
    f"Of a score, {words:.0%} is BM25 of the history's titles and {cf:.0%} the"
    " CF score, each from 0 to 1 over a user's items."
  ]
