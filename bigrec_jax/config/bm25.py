"""Section `bm25`."""

import dataclasses
from typing import Annotated

from bigrec_jax import errors
from bigrec_jax.config import checks


@dataclasses.dataclass(frozen=True)
class Bm25Config:
  """Parameters of BM25 to choose from, on valid; one of each = as given."""

  k1: Annotated[tuple[float, ...], checks.Range(0, 1e6)]
  b: Annotated[tuple[float, ...], checks.Range(0, 1)]

  def __post_init__(self):
    for name in ("k1", "b"):
      if not getattr(self, name):
        raise errors.UserError(
          f"config.bm25.{name}: nothing found, at least one value expected"
        )
