"""The rows `likelihood` and `likelihood ratio`: candidates by the model itself.

The top M candidates of a user are ordered by the tuned model's log-probability
of their titles: after the user's history, and less a share of that after none,
which a title's base rate makes.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrec_jax import errors
from bigrec_jax.data.text import pipeline
from bigrec_jax.recommend import likely
from bigrec_jax.results import rows as rows_lib
from bigrec_jax.stages import predictions, report_row, train
from bigrec_jax.stages.session import Session
from bigrec_jax.workdir import fingerprints, parts as parts_lib

if TYPE_CHECKING:
  from bigrec_jax.rankers import evaluate
  from bigrec_jax.recommend import title_scorer

NAME, RATIO = "likelihood", "likelihood ratio"
SPLITS = ("valid", "test")
# How much of the log-probability without history is taken off.
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def score(
  session: Session,
  splits: "Mapping[str, evaluate.Split]",
  items: np.ndarray,
  parts: parts_lib.Parts,
) -> dict[str, likely.Likely]:
  """Returns the candidates of both splits, scored; what is known is not redone.

  Args:
    session: configuration and workdir.
    splits: queries and CF scores.
    items: [I, D] embeddings of the catalogue.
    parts: of the evaluation.
  """
  from bigrec_jax.recommend import title_scorer

  found = {s: _candidates(session, s, splits[s], items, parts) for s in SPLITS}
  scorer = title_scorer.TitleScorer(session, train.used(session).directory)
  after = {s: _after(session, scorer, s, found[s], parts) for s in SPLITS}
  titles = np.unique(np.concatenate([found[s].ravel() for s in SPLITS]))
  titles = titles[titles >= 0]
  alone = np.full(len(session.catalogue) + 1, -np.inf, np.float32)
  readings = scorer.readings(len(titles))
  with session.stage("likelihood without history", readings, "times") as bar:
    key = f"{NAME}: alone {fingerprints.of_value(titles.tolist())}"
    alone[titles] = scorer.without_history(titles, bar, parts, key)
  # Place -1 of `alone` is what no candidate has.
  return {s: likely.Likely(found[s], after[s], alone[found[s]]) for s in SPLITS}


def measure(
  session: Session,
  splits: "Mapping[str, evaluate.Split]",
  items: np.ndarray,
  scored: Mapping[str, likely.Likely],
  plain: Mapping[str, np.ndarray],
) -> Iterator[
  tuple[str, list[rows_lib.BaselineRow], dict[str, np.ndarray], dict[str, Any]]
]:
  """Yields both systems: name, rows, ranks [N] by split, what was fitted.

  Args:
    session: configuration and workdir.
    splits: what is ranked.
    items: [I, D] embeddings of the catalogue.
    scored: by split, of `score`.
    plain: by split, [N] ranks by the published distance.
  """
  from bigrec_jax.rankers import (
    duplicates,
    held_out,
    reranked,
  )
  from bigrec_jax.rankers.combine import calibrate

  ground, groups = session.config.ground, session.catalogue.groups
  rankers = {
    s: reranked.Reranked(
      scored[s].titles,
      groups,
      duplicates.targets_by(ground.duplicates, splits[s].targets, groups),
      ground.duplicates,
      items,
      splits[s].queries,
      plain[s],
    )
    for s in SPLITS
  }
  cutoff = calibrate.SINGLE_CUTOFF
  valid = [rankers["valid"].ranks(scored["valid"].scores(w)) for w in WEIGHTS]
  owners = session.examples("valid").owners
  choice = held_out.choose(valid, owners, session.config.seed)
  best = choice.place
  shares = {s: round(rankers[s].found, 4) for s in SPLITS}
  cf = [] if splits["test"].cf_scores is None else [ground.injected_cf or "cf"]
  for name, place, tried in ((NAME, 0, 1), (RATIO, best, len(WEIGHTS))):
    ranks = {
      # Who chose a weight is ranked by what others chose.
      "valid": choice.ranks if name == RATIO else valid[place],
      "test": rankers["test"].ranks(scored["test"].scores(WEIGHTS[place])),
    }
    rows = [report_row.of(session, name, s, ranks[s]) for s in SPLITS]
    fitted = {
      "candidates": ground.likelihood,
      "parts": ["text", *cf],
      "targets_among_candidates": shares,
      "weight_without_history": WEIGHTS[place],
      "tried": tried,
      f"valid_ndcg@{cutoff}": choice.held_out
      if name == RATIO
      else choice.ndcg[place],
      f"valid_ndcg@{cutoff}_of_who_chose": choice.ndcg[place],
      "says": [
        f"{name}: {shares['test']:.1%} of the test targets are among the"
        f" {ground.likelihood} candidates that the model scores."
      ],
    }
    yield name, rows, ranks, fitted


def inputs(session: Session) -> dict[str, Any]:
  """Returns what the scores are made from, beside the beams."""
  options = session.config.to_dict()
  return {
    "adapter": train.used(session).fingerprint,
    "scored_by": session.base_fingerprint,
    "prompt": options["prompt"],
  }


def _candidates(
  session: Session,
  split: str,
  own: "evaluate.Split",
  items: np.ndarray,
  parts: parts_lib.Parts,
) -> np.ndarray:
  """Returns a split's candidates [N, M], as title numbers."""
  from bigrec_jax.rankers import candidates, cf as cf_rankers
  from bigrec_jax.rankers.distance import streamed

  config, catalogue = session.config.ground, session.catalogue

  def find() -> parts_lib.Arrays:
    texts = predictions.beams(session, split).texts.texts
    scores = own.cf_scores
    titles = candidates.of_users(
      streamed.streamed(items, catalogue.groups, session.mesh),
      likely.written(session, texts),
      own.queries,
      None if scores is None else cf_rankers.of_scores(scores),
      min(config.likelihood, len(catalogue)),
      config,
    )
    return {"titles": titles}

  return parts.once(f"{NAME}: candidates {split}", find)["titles"]


def _after(
  session: Session,
  scorer: "title_scorer.TitleScorer",
  split: str,
  candidates: np.ndarray,
  parts: parts_lib.Parts,
) -> np.ndarray:
  """Returns log p(title | history) [N, M] of a split."""
  samples = session.task.samples(split)
  tokens = pipeline.question_tokens(samples, session.tokenizer)
  key = fingerprints.of_value([tokens, candidates.tolist()])
  kept = parts_lib.Vectors(parts, f"{NAME}: after {key}", *candidates.shape)
  with session.stage(f"likelihood {split}", len(tokens), "users") as bar:
    try:
      return scorer(tokens, candidates, bar, kept)
    except errors.NonFiniteError as error:
      raise error.of(error.row, samples.name(error.row)) from None
