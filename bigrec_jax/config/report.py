"""Section `report`."""

import dataclasses
from typing import Annotated

from bigrec_jax.config import checks


@dataclasses.dataclass(frozen=True)
class ReportConfig:
  """The HTML report."""

  num_examples: Annotated[int, checks.ANY]
  contamination: Annotated[int, checks.ANY]
