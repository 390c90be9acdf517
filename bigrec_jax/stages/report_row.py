"""The row of metrics of a system that a stage ranked with."""

import numpy as np

from bigrec_jax.results import rows
from bigrec_jax.stages.session import Session


def of(
  session: Session, name: str, split: str, ranks: np.ndarray
) -> rows.BaselineRow:
  """Returns metrics of ranks [N] of a split, with intervals over its users."""
  from bigrec_jax.rankers import report_rows  # JAX.

  return report_rows.of_ranks(
    ranks,
    session.config.ground,
    session.config.seed,
    name=name,
    split=split,
    users=session.users(split),
  )
