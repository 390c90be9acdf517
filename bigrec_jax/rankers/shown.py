"""Which items a user is shown: each title once, none that is left out.

Letters: I items, c candidates of a user, H hidden.
"""

import numpy as np


def of_candidates(
  items: np.ndarray,
  groups: np.ndarray,
  hidden: np.ndarray,
  allowed: np.ndarray | None,
) -> np.ndarray:
  """Returns which of a user's candidates are listed [c] bool.

  Of rows that share a title the first allowed one is. What is hidden hides
  its title, what isn't allowed only itself: another row may have that title.

  Args:
    items: [c] int32 catalogue rows, best first; -1 = none.
    groups: [I] int32, `Catalogue.groups`.
    hidden: [H] catalogue rows, padded with -1.
    allowed: [I] bool; None = all are.
  """
  kept = items >= 0
  if allowed is not None:
    kept &= allowed[items]
  titles = np.where(kept, groups[items], -1)
  first = np.zeros(len(items), bool)
  first[np.unique(titles, return_index=True)[1]] = True
  return kept & first & ~np.isin(titles, groups[hidden[hidden >= 0]])


def first_rows(groups: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
  """Returns the row that stands for each title [I] int32; -1 = none may.

  Args:
    groups: [I] int32, `Catalogue.groups`; a title's number is its first row.
    allowed: [I] bool; None = all are.
  """
  found = np.full(len(groups), -1, np.int32)
  rows = np.arange(len(groups), dtype=np.int32)
  if allowed is not None:
    rows = rows[allowed]
  titles, first = np.unique(groups[rows], return_index=True)
  found[titles] = rows[first]
  return found
