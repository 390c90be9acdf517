"""Section `report`."""

import dataclasses
from typing import Annotated

from bigrec_jax.config import checks


@dataclasses.dataclass(frozen=True)
class ReportConfig:
  """The HTML report."""

  num_examples: Annotated[int, checks.ANY]
  contamination: Annotated[int, checks.ANY]
  compare: str
  price_per_hour: Annotated[float, checks.Range(0, 1e9)]

  @property
  def compared(self) -> tuple[str, ...]:
    """The workdirs in `compare`, each once."""
    names = (name.strip() for name in self.compare.split(","))
    return tuple(dict.fromkeys(filter(None, names)))
