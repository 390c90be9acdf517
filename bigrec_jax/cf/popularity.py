"""Most-Pop: every user gets the items that the most interactions chose."""

import numpy as np

from bigrec_jax.cf.factors import Factors


def fit(counts: np.ndarray, num_users: int) -> Factors:
  """Returns the scores in factorised form: a column of ones x the counts.

  Args:
    counts: [I], interactions of each item, at most 2**24 (float32 is exact up
      to there). BIGRec's protocol counts the train part; the row "PopRec" of
      the S3-Rec paper counts the held-out interactions too.
    num_users: N.

  Raises:
    ValueError: a count isn't exact in float32.
  """
  if counts.max(initial=0) > 1 << 24:
    raise ValueError(f"{counts.max()=}, at most 2**24 expected")
  ones = np.ones((num_users, 1), np.float32)
  return Factors(ones, counts.astype(np.float32)[:, None])
