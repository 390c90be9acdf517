"""Section `task.auxiliary`: Cao et al.'s mixture of tasks."""

import dataclasses
from typing import Annotated

from bigrec_jax import errors
from bigrec_jax.config import checks

# Samples of a kind for each train row, at most.
_WEIGHT = checks.Range(0, 100)


@dataclasses.dataclass(frozen=True)
class WeightsConfig:
  """Samples of each kind for each train row it can be made of; 0 = none."""

  retrieval: Annotated[float, _WEIGHT]
  ranking: Annotated[float, _WEIGHT]
  rating: Annotated[float, _WEIGHT]
  mim: Annotated[float, _WEIGHT]
  mlm: Annotated[float, _WEIGHT]
  bpr: Annotated[float, _WEIGHT]

  @property
  def by_kind(self) -> dict[str, float]:
    """The weight of each kind, by name, recommendation tasks first."""
    return {
      "retrieval": self.retrieval,
      "ranking": self.ranking,
      "rating": self.rating,
      "mim": self.mim,
      "mlm": self.mlm,
      "bpr": self.bpr,
    }


@dataclasses.dataclass(frozen=True)
class AuxiliaryConfig:
  """Cao et al.: what is mixed, and how items read (tasks/auxiliary)."""

  item: str
  ids: str
  attributes: str
  columns: tuple[str, ...]
  candidates: Annotated[int, checks.Range(2, checks.MOST)]
  window: Annotated[int, checks.Range(2, checks.MOST, also=0)]
  masked_items: Annotated[int, checks.SOME]
  mask_rate: Annotated[float, checks.Range(0, 1)]
  blank: str
  weights: WeightsConfig

  def __post_init__(self):
    checks.choice("task.auxiliary.item", self.item, ("title", "id", "both"))
    checks.choice("task.auxiliary.ids", self.ids, ("place", "external"))
    if self.blank.count("{}") != 1:
      raise errors.UserError(
        f"config.task.auxiliary.blank: {self.blank!r} found, a text with one"
        " {} for the number expected"
      )
