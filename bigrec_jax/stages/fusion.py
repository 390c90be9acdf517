"""The rows `calibrated fusion`, `reciprocal-rank fusion` and ablations."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from bigrec_jax.rankers import duplicates, evaluate
from bigrec_jax.rankers.combine import (
  ablation,
  candidates,
  features,
  fused_ranks,
  fusion,
  fusion_fit,
  fusion_words,
)
from bigrec_jax.rankers.distance import streamed
from bigrec_jax.recommend import likely
from bigrec_jax.results import rows as rows_lib
from bigrec_jax.stages import all_beams, history_titles, report_row
from bigrec_jax.stages.session import Session
from bigrec_jax.workdir import parts as parts_lib

SPLITS = ("valid", "test")


class About(NamedTuple):
  """What is fused.

  Attributes:
    session: configuration and workdir.
    splits: queries, targets and CF scores.
    items: [I, D] embeddings of the catalogue.
    popularity: [I] counts.
    plain: by split, [N] ranks by the published distance.
    texts: all beams of both splits; None = the first ones alone.
    scored: what the model makes of some titles; None = it was not asked.
    words: BM25 of the history's titles.
    others: scores [N, I] by CF model and split, of those that aren't injected.
  """

  session: Session
  splits: Mapping[str, evaluate.Split]
  items: np.ndarray
  popularity: np.ndarray
  plain: Mapping[str, np.ndarray]
  texts: Mapping[str, all_beams.Embedded] | None
  scored: Mapping[str, likely.Likely] | None
  words: history_titles.Words
  others: Mapping[str, Mapping[str, Any]]


# A system's name, its rows, its ranks [N] by split, and what was fitted.
System = tuple[
  str, list[rows_lib.BaselineRow], dict[str, np.ndarray], dict[str, Any]
]


def measure(about: About, parts: parts_lib.Parts) -> Iterator[System]:
  """Yields the systems: fitted weights first, then what needs no fitting.

  Args:
    about: what is fused.
    parts: of the evaluation; candidates are kept, weights take seconds.
  """
  session = about.session
  groups = session.catalogue.groups
  table = streamed.streamed(about.items, groups, session.mesh)
  gatherer = candidates.Gatherer(
    table, about.popularity, block_items=session.config.ground.block_items
  )
  known = {s: _known(about, s, gatherer, parts) for s in SPLITS}
  fitted = fusion_fit.fit(known["valid"], session.config.seed)
  ranks = {
    "valid": fitted.ranks,
    "test": _ranked(fitted.fusion, known["test"]),
  }
  if fitted.fusion.weights:  # Else nobody asks for it.
    most = session.config.ground.likelihood
    fitted.report["parameters"]["likelihood"] = most
  name = fitted.fusion.name
  yield name, _rows(session, name, ranks), ranks, fitted.report
  valid = known["valid"]
  everybody = np.ones(len(valid.taken), bool)
  plain = fusion.Fusion(
    fusion.RECIPROCAL,
    fitted.fusion.texts,
    valid.items.parts,
    fusion_fit.best_part(valid.judged, everybody),
    words=valid.items.words,
  )
  ranks = {s: _ranked(plain, known[s]) for s in SPLITS}
  name = plain.name
  base = fusion_words.named(plain.base)
  says = f"Nothing is fitted; all other items follow as by {base}."
  report = {"says": [says], "parameters": plain.to_json()}
  yield name, _rows(session, name, ranks), ranks, report
  for part in session.config.ground.fusion_ablations:
    if ablation.is_there(part, valid.items):
      yield _without(about, part, known)


def _without(
  about: About, part: str, known: Mapping[str, fusion_fit.Valid]
) -> System:
  """Returns the fusion fitted again without a part; nothing chooses it.

  Args:
    about: what is fused.
    part: of `config.ground.PARTS`.
    known: candidates of both splits.
  """
  session = about.session
  less = {}
  for split, own in known.items():
    users = _users(about, split)
    kept = ablation.without(part, own.found, users, own.items)
    less[split] = _judged(about, split, *kept)
    if part == features.TEXT:
      told = ablation.forget_text(less[split].known, less[split].judged)
      less[split] = dataclasses.replace(
        less[split], known=told[0], judged=told[1]
      )
  fitted = fusion_fit.fit(less["valid"], session.config.seed)
  ranks = {"valid": fitted.ranks, "test": _ranked(fitted.fusion, less["test"])}
  name = f"{fitted.fusion.name} without {part}"
  kept_keys = ("form", "penalty", "tried", "valid_ndcg@20")
  report = {key: fitted.report[key] for key in kept_keys}
  return name, _rows(session, name, ranks), ranks, report


def _known(
  about: About,
  split: str,
  gatherer: candidates.Gatherer,
  parts: parts_lib.Parts,
) -> fusion_fit.Valid:
  """Returns candidates, features and targets of a split."""
  session = about.session
  ground, users = session.config.ground, _users(about, split)
  with session.stage(f"candidates of {split}", len(users), "users") as progress:
    by = ", ".join(users.cf)
    once = parts_lib.within(parts.once, f"fusion {split} of {by}")
    found = gatherer(users, once, ground.batch_size)
    progress.update(len(users))
  items = features.Items(
    about.popularity if about.popularity.any() else None,
    tuple(users.cf),
    about.words.choice.settings,
  )
  return _judged(about, split, found, users, items)


def _judged(
  about: About,
  split: str,
  found: candidates.Candidates,
  users: candidates.Users,
  items: features.Items,
) -> fusion_fit.Valid:
  """Returns candidates with their features, and where the targets are."""
  session, own = about.session, about.splits[split]
  ground, groups = session.config.ground, session.catalogue.groups
  targets = duplicates.targets_by(ground.duplicates, own.targets, groups)
  judged = fused_ranks.judge(
    found,
    users,
    items,
    about.items,
    targets,
    duplicates.groups_by(ground.duplicates, groups),
    about.plain[split],
  )
  return fusion_fit.Valid(
    found,
    features.of(found, users, items, _likely(about, split, found)),
    items,
    judged,
    targets,
    session.examples(split).owners,
  )


def _likely(
  about: About, split: str, found: candidates.Candidates
) -> dict[str, np.ndarray] | None:
  """Returns what the model makes of candidates, where it was asked."""
  if about.scored is None:
    return None
  own, groups = about.scored[split], about.session.catalogue.groups
  return features.likelihood(found.items, groups, *own)


def _users(about: About, split: str) -> candidates.Users:
  """Returns what is known of the users of a split."""
  own, cf = about.splits[split], dict[str, candidates.ReadScores]()
  if all(about.splits[s].cf_scores is not None for s in SPLITS):
    name = about.session.config.ground.injected_cf or "cf"
    cf[name] = _reader(own.cf_scores)
  for model, scores in about.others.items():
    cf[model] = _reader(scores[split])
  history = about.session.examples(split).history
  cf[features.WORDS] = about.words.reader(history)
  queries, logs = own.queries[:, None], None
  if about.texts is not None:
    texts = about.texts[split]
    most = max(about.texts[s].there.shape[1] for s in SPLITS)
    queries, logs = candidates.repeated(texts.queries, texts.logs, most)
  return candidates.Users(queries, logs, cf, history, split)


def _reader(scores: Any) -> candidates.ReadScores:
  """Returns what reads scores [N, I] of some users as float32."""
  return lambda part: np.asarray(scores[part], np.float32)


def _ranked(fused: fusion.Fusion, of: fusion_fit.Valid) -> np.ndarray:
  """Returns the places [N] of the targets by a fused score."""
  return fused_ranks.ranks(
    fused.scores(of.found, of.known, of.items),
    features.costs(fused.base, of.found, of.items),
    of.found.items,
    of.judged.own,
    of.judged.rest[fused.base],
  )


def _rows(
  session: Session, name: str, ranks: Mapping[str, np.ndarray]
) -> list[rows_lib.BaselineRow]:
  return [
    report_row.of(session, name, split, own) for split, own in ranks.items()
  ]
