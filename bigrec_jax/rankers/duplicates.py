"""Which rows of the catalogue a target is, where titles repeat.

By the rule `best` (`ground.duplicates`) a target is found where any row of its
title is. By `last` a row is its own target and a title means its last row, as
BIGRec data/movie/evaluate.py has it, which fills a dict title -> id in file
order. What the two functions return is what `engine` and `distance` take.
"""

import numpy as np


def groups_by(rule: str, groups: np.ndarray) -> np.ndarray:
  """Returns [I] int32: rows that count as one target share a number.

  Args:
    rule: best or last.
    groups: [I] int32, `Catalogue.groups`: rows of one title.
  """
  groups = np.asarray(groups, np.int32)
  return groups if rule == "best" else np.arange(len(groups), dtype=np.int32)


def targets_by(
  rule: str, targets: np.ndarray, groups: np.ndarray
) -> np.ndarray:
  """Returns the rows [N] to look for.

  Args:
    rule: best or last.
    targets: [N] catalogue rows.
    groups: [I] int32, `Catalogue.groups`.
  """
  if rule == "best":
    return targets
  last = np.zeros(len(groups), np.int32)
  last[groups] = np.arange(len(groups), dtype=np.int32)
  return last[groups[targets]]
