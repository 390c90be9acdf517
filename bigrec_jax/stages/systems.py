"""Rows beside the published ones: what else ranks the same users.

Each is a ranker or a combiner of its own (rankers/), asked for by a key of
section `ground`; what it has to learn, it learns on valid alone.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrec_jax.results import rows as rows_lib
from bigrec_jax.stages import predictions
from bigrec_jax.stages.session import Session
from bigrec_jax.workdir import parts as parts_lib

if TYPE_CHECKING:
  from bigrec_jax.rankers import evaluate

SPLITS = ("valid", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
  """What was asked for beside the published rows.

  Attributes:
    rows: of both splits, one a system and split.
    ranks: by split and system [N].
    fitted: what valid taught each system, by its name; for the report and for
      recommendations.
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
  }
  return {key: own for key, (own, plain) in found.items() if own != plain}


def inputs(session: Session) -> dict[str, Any]:
  """Returns what else the systems that are asked for are made from."""
  if session.config.ground.beams != "all":
    return {}
  return {"beams": {s: predictions.fingerprint(session, s) for s in SPLITS}}


def measure(
  session: Session,
  splits: "Mapping[str, evaluate.Split]",
  items: np.ndarray,
  popularity: np.ndarray,
  parts: parts_lib.Parts,
) -> Measured:
  """Ranks the users of valid and test by every system that is asked for.

  Args:
    session: configuration and workdir.
    splits: what the published rows were made of: queries, targets, CF scores.
    items: [I, D] embeddings of the catalogue.
    popularity: [I] counts.
    parts: what of this evaluation was finished before a kill.
  """
  del popularity
  found = Measured()
  if session.config.ground.beams == "all":
    # Not at the top: a result that is current needs none of this.
    from bigrec_jax.stages import all_beams

    own = all_beams.measure(session, splits, items, parts)
    found.add(all_beams.NAME, *own)
  return found
