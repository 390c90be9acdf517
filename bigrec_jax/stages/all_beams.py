"""The row `all beams`: every beam of a user is a query."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bigrec_jax.results import rows as rows_lib
from bigrec_jax.stages import embed, predictions, report_row
from bigrec_jax.stages.session import Session
from bigrec_jax.workdir import parts as parts_lib

if TYPE_CHECKING:
  from bigrec_jax.rankers import all_beams as ranker_lib, evaluate

NAME = "all beams"
SPLITS = ("valid", "test")


def measure(
  session: Session,
  splits: "Mapping[str, evaluate.Split]",
  items: np.ndarray,
  found: Mapping[str, "Embedded"],
  parts: parts_lib.Parts,
) -> tuple[list[rows_lib.BaselineRow], dict[str, np.ndarray], dict[str, Any]]:
  """Returns the rows of both splits, ranks [N] by split, and what was fitted.

  Args:
    session: configuration and workdir.
    splits: for the targets.
    items: [I, D] embeddings of the catalogue.
    found: all texts of both splits.
    parts: of the evaluation.
  """
  from bigrec_jax.rankers import (
    all_beams as ranker_lib,
    all_beams_choice,
    bm25_choice,
    duplicates,
    engine,
  )

  ground, groups = session.config.ground, session.catalogue.groups
  once = parts_lib.within(parts.once, NAME)
  table = ranker_lib.table(items, groups, session.mesh)
  beams = {s: _beams(session, found[s], table) for s in SPLITS}
  targets = {
    s: duplicates.targets_by(ground.duplicates, splits[s].targets, groups)
    for s in SPLITS
  }

  def ranks_for(split: str, users: int) -> engine.Ranks:
    return engine.Ranks(
      targets[split][:users],
      len(groups),
      session.mesh,
      # A user's beams are as many queries.
      most_users=max(1, ground.batch_size // beams[split].logs.shape[1]),
      groups=duplicates.groups_by(ground.duplicates, groups),
    )

  ranks_of = {s: ranks_for(s, len(targets[s])) for s in SPLITS}
  # Of a large catalogue settings are tried on the first users of valid.
  few = bm25_choice.users_to_choose_by(len(targets["valid"]), len(groups))
  choice = all_beams_choice.choose(
    table,
    beams["valid"],
    ranks_for("valid", few),
    session.examples("valid").owners[:few],
    session.config.seed,
    once,
  )
  ranks = {
    s: engine.ranks_once(
      once,
      s,
      ranks_of[s],
      ranker_lib.AllBeams(table, beams[s], choice.settings),
    )
    for s in SPLITS
  }
  # Who chose is ranked by what others chose; the rest chose nothing.
  ranks["valid"] = np.concatenate([choice.ranks, ranks["valid"][few:]])
  rows = [report_row.of(session, NAME, s, ranks[s]) for s in SPLITS]
  says = _says(choice.settings, found, few)
  return rows, ranks, choice.to_json() | {"says": says}


def _says(
  settings: "ranker_lib.Settings", found: Mapping[str, "Embedded"], few: int
) -> list[str]:
  """Returns sentences for the report; `few` users of valid chose."""
  by = {
    s: "the order of the beams" if found[s].by_order else "their scores"
    for s in SPLITS
  }
  says = [f"{NAME}: beams are weighted by {by['valid']}."]
  if by["test"] != by["valid"]:
    says.append(
      f"{NAME}: on test by {by['test']}, for which nothing was chosen."
    )
  if not settings.beam_temperature:
    says.append(f"{NAME}: valid likes the first beam alone best.")
  if few < len(found["valid"].texts):
    says.append(f"{NAME}: chosen on the first {few} users of valid.")
  return says


class Embedded(NamedTuple):
  """All texts of the N users of a split.

  Attributes:
    texts: [N][<= W] cleaned, different ones of a user, best first.
    logs: [N, W] float64 log-probabilities, -inf where there is no text.
    by_order: whether these are made up from the order of the beams.
    queries: [N, W, D] float32 embeddings, 0 where there is no text.
    there: [N, W] bool, where there is one.
  """

  texts: list[list[str]]
  logs: np.ndarray
  by_order: bool
  queries: np.ndarray
  there: np.ndarray


def embedded(
  session: Session, split: str, items: np.ndarray, parts: parts_lib.Parts
) -> Embedded:
  """Returns all texts of a split, through the encoder.

  Args:
    session: configuration and workdir.
    split: valid or test.
    items: [I, D] embeddings of the catalogue.
    parts: of the evaluation.
  """
  found = predictions.beams(session, split)
  own = found.texts
  flat = [text for texts in own.texts for text in texts]
  label = f"embed all beams of {split}"
  vectors = embed.embed_queries(session, flat, items, label, parts)
  there = np.zeros(own.logs.shape, bool)
  for row, texts in zip(there, own.texts, strict=True):
    row[: len(texts)] = True
  queries = np.zeros((*there.shape, items.shape[1]), np.float32)
  queries[there] = vectors
  return Embedded(own.texts, own.logs, found.by_order, queries, there)


def _beams(
  session: Session, found: Embedded, table: "ranker_lib.Table"
) -> "ranker_lib.Beams":
  """Returns a split's beams, measured against the catalogue."""
  from bigrec_jax.rankers import all_beams as ranker_lib, all_beams_choice

  titles = np.full(found.there.shape, -1, np.int32)
  find = session.catalogue.index_of_clean_title
  rows = [find(text) for texts in found.texts for text in texts]
  titles[found.there] = [-1 if row is None else row for row in rows]
  return ranker_lib.measure(
    table,
    found.queries,
    titles,
    found.logs,
    all_beams_choice.ITEM_TEMPERATURES,
  )
