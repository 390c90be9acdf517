"""Section `report`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ReportConfig:
  """The HTML report."""

  num_examples: int
