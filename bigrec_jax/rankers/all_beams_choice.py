"""The temperatures of the mixture over beams, chosen on valid."""

import dataclasses
import itertools
from typing import Any

import numpy as np

from bigrec_jax.rankers import all_beams, engine, held_out
from bigrec_jax.rankers.combine import calibrate
from bigrec_jax.workdir import parts as parts_lib

# Powers of two, so that a single beam's distances are scaled unrounded.
ITEM_TEMPERATURES = (1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64)
_BEAM_TEMPERATURES = (0.5, 1.0, 2.0, 4.0)
_RESTS = (0.1, 0.5)

# The first beam alone comes first: of equally good settings the first is kept.
GRID = (
  all_beams.Settings(0.0, ITEM_TEMPERATURES[0], _RESTS[0]),
  *itertools.starmap(
    all_beams.Settings,
    itertools.product(_BEAM_TEMPERATURES, ITEM_TEMPERATURES, _RESTS),
  ),
)


@dataclasses.dataclass(frozen=True)
class Choice:
  """What valid likes best.

  Attributes:
    settings: of the mixture.
    tried: how many settings there were.
    ndcg: of the settings on the users that chose them, at
      `calibrate.SINGLE_CUTOFF`.
    first_beam: the same of the first beam alone.
    ranks: [N] of these users, each by what others choose (`held_out`).
    held_out: NDCG of these.
  """

  settings: all_beams.Settings
  tried: int
  ndcg: float
  first_beam: float
  ranks: np.ndarray
  held_out: float

  def to_json(self) -> dict[str, Any]:
    """Returns what a result file says of it."""
    name = f"valid_ndcg@{calibrate.SINGLE_CUTOFF}"
    return {
      **self.settings._asdict(),
      "tried": self.tried,
      name: self.held_out,
      f"{name}_of_who_chose": self.ndcg,
      f"{name}_first_beam": self.first_beam,
    }


def choose(
  catalogue: all_beams.Table,
  beams: all_beams.Beams,
  ranks_of: engine.Ranks,
  owners: np.ndarray,
  seed: int,
  once: parts_lib.Once = parts_lib.at_once,
) -> Choice:
  """Returns the settings of `GRID` that rank valid best.

  Args:
    catalogue: the items.
    beams: of valid.
    ranks_of: ranks valid's targets, of the first N users.
    owners: [N] whose rows these are.
    seed: of the folds.
    once: knows the ranks of settings that were tried before a kill.
  """
  found = []
  for settings in GRID:
    ranker = all_beams.AllBeams(catalogue, beams, settings)
    key = f"choose {tuple(settings)}"
    found.append(engine.ranks_once(once, key, ranks_of, ranker))
  best = held_out.choose(found, owners, seed)
  return Choice(
    GRID[best.place],
    len(GRID),
    best.ndcg[best.place],
    best.ndcg[0],
    best.ranks,
    best.held_out,
  )
