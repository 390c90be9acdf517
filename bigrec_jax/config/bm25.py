"""Section `bm25`."""

import dataclasses

from bigrec_jax import errors
from bigrec_jax.config import checks


@dataclasses.dataclass(frozen=True)
class Bm25Config:
  """Parameters of BM25 to choose from, on valid; one of each = as given."""

  k1: tuple[float, ...]
  b: tuple[float, ...]

  def __post_init__(self):
    for name in ("k1", "b"):
      if not getattr(self, name):
        raise errors.UserError(
          f"config.bm25.{name}: nothing found, at least one value expected"
        )
    for value in self.k1:
      checks.at_least("bm25.k1", value, 0.0)
    for value in self.b:
      if not 0.0 <= value <= 1.0:
        raise errors.UserError(
          f"config.bm25.b: {value} found, from 0 to 1 expected"
        )
