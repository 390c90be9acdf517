"""Rows beside the published ones: what else ranks the same users.

Each is a ranker or a combiner of its own (rankers/), asked for by a key of
section `ground`; what it has to learn, it learns on valid alone.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrec_jax.results import rows as rows_lib
from bigrec_jax.stages import graph, likelihood, predictions, pretrain, train
from bigrec_jax.stages.session import Session
from bigrec_jax.workdir import fingerprints, parts as parts_lib

if TYPE_CHECKING:
  from bigrec_jax.rankers import evaluate
  from bigrec_jax.stages import history_titles

SPLITS = ("valid", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
  """What was asked for beside the published rows.

  Attributes:
    rows: of both splits, one a system and split.
    ranks: by split and system [N].
    fitted: what valid taught each system, by its name; for the report and for
      recommendations. The report shows its optional keys "says", a list of
      sentences, and "tried", how many settings valid chose from.
  """

  rows: list[rows_lib.BaselineRow] = dataclasses.field(default_factory=list)
  ranks: dict[str, dict[str, np.ndarray]] = dataclasses.field(
    default_factory=lambda: {split: {} for split in SPLITS}
  )
  fitted: dict[str, Any] = dataclasses.field(default_factory=dict)

  def add(
    self,
    name: str,
    rows: Iterable[rows_lib.BaselineRow],
    ranks: Mapping[str, np.ndarray],
    fitted: Mapping[str, Any],
  ) -> None:
    """Adds a system: its rows, its ranks [N] by split, what valid taught it."""
    self.rows.extend(rows)
    for split, own in ranks.items():
      self.ranks[split][name] = own
    self.fitted[name] = dict(fitted)


def asked_for(session: Session) -> dict[str, Any]:
  """Returns the keys that ask for systems, without those at their default.

  They name what a result was made from; a result of before there were any
  stays current.
  """
  ground = session.config.ground
  found = {
    "beams": (ground.beams, "first"),
    "likelihood": (ground.likelihood, 0),
    "fusion": (ground.fusion, "paper"),
    "fusion_ablations": (tuple(ground.fusion_ablations), ()),
  }
  return {key: own for key, (own, plain) in found.items() if own != plain}


def inputs(session: Session) -> dict[str, Any]:
  """Returns what else the systems that are asked for are made from."""
  ground = session.config.ground
  found: dict[str, Any] = {}
  if asked_for(session):  # Users are cut into folds by whose rows they are.
    owners = session.examples("valid").owners
    found["owners"] = fingerprints.of_value(owners.tolist())
  if ground.beams == "all" or ground.likelihood:
    found["beams"] = predictions.made_from(session)
  if ground.likelihood:
    found["likelihood"] = likelihood.inputs(session)
  if ground.fusion == "calibrated":  # Once it had no BM25.
    found["fusion"] = "with bm25"
  return found


def needed(session: Session) -> Iterator[graph.Stage]:
  """Yields what the systems that are asked for need beside predictions."""
  ground = session.config.ground
  if ground.beams == "all" or ground.likelihood:
    yield from pretrain.needed(session)  # Lengths of beams, by its tokenizer.
  if ground.likelihood:
    yield from train.needed(session)


def check(session: Session) -> None:
  """Raises UserError for what the systems that are asked for can't use."""
  if not session.config.ground.likelihood:
    return
  train.check_used(session)
  if not session.asked.dry_run:  # Which has no need of devices.
    from bigrec_jax.devices import sharding

    size = session.config.generate.batch_size
    sharding.check_batch(session.mesh, size, "config.generate.batch_size")


def measure(
  session: Session,
  splits: "Mapping[str, evaluate.Split]",
  items: np.ndarray,
  popularity: np.ndarray,
  parts: parts_lib.Parts,
  plain: Mapping[str, np.ndarray],
  words: "history_titles.Words",
  others: Mapping[str, Mapping[str, Any]],
) -> Measured:
  """Ranks the users of valid and test by every system that is asked for.

  Args:
    session: configuration and workdir.
    splits: what the published rows were made of: queries, targets, CF scores.
    items: [I, D] embeddings of the catalogue.
    popularity: [I] counts.
    parts: what of this evaluation was finished before a kill.
    plain: by split, [N] ranks by the published distance.
    words: BM25 of the history's titles.
    others: scores [N, I] by CF model and split, of those that aren't injected.
  """
  # Not at the top: a result that is current needs none of these.
  from bigrec_jax.stages import all_beams, fusion

  ground, found = session.config.ground, Measured()
  texts = None
  if ground.beams == "all":
    texts = {s: all_beams.embedded(session, s, items, parts) for s in SPLITS}
    own = all_beams.measure(session, splits, items, texts, parts)
    found.add(all_beams.NAME, *own)
  scored = None
  if ground.likelihood:
    scored = likelihood.score(session, splits, items, parts)
    for system in likelihood.measure(session, splits, items, scored, plain):
      found.add(*system)
  if ground.fusion == "calibrated":
    about = fusion.About(
      session, splits, items, popularity, plain, texts, scored, words, others
    )
    for name, rows, ranks, fitted in fusion.measure(about, parts):
      found.add(name, rows, ranks, fitted)
  return found
