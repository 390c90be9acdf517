"""HitRatio@1 and ValidRatio of written answers.

As published (calculate_hr1 of LLaRA's model_interface.py): an answer is valid
if exactly one candidate's title occurs in its first line, and right if that is
the target's. The published HitRatio@1 is the share of right ones among all
(.4526 of 95 test users is 43 of them); the code's own `hr` is their share
among the valid ones, and what it chooses epochs by is hr times valid ratio,
which is the first. The strict form asks for the title and nothing else.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Judged(NamedTuple):
  """What answers are, bool [N] each.

  Attributes:
    valid: one candidate's title occurs in it, and no other's.
    right: and it is the target's.
    strictly_valid: it is a candidate's title.
    strictly_right: it is the target's title.
  """

  valid: np.ndarray
  right: np.ndarray
  strictly_valid: np.ndarray
  strictly_right: np.ndarray

  def metrics(self) -> dict[str, np.ndarray]:
    """Returns the share-valued metrics by name, a 0 or 1 for each sample."""
    names = ("hit_ratio@1", "valid_ratio", "strict_hit_ratio@1", "strict_valid")
    parts = self.right, self.valid, self.strictly_right, self.strictly_valid
    return {
      name: part.astype(np.float64)
      for name, part in zip(names, parts, strict=True)
    }


def judge(
  answers: Sequence[str],
  targets: Sequence[str],
  candidates: Sequence[Sequence[str]],
) -> Judged:
  """Judges answers.

  Args:
    answers: as written; what is behind the first line doesn't count.
    targets: titles.
    candidates: titles, each sample's.
  """
  found = np.zeros((4, len(answers)), bool)
  for n, (answer, target, own) in enumerate(
    zip(answers, targets, candidates, strict=True)
  ):
    said = plain(answer.strip().split("\n")[0])
    wanted, titles = plain(target), [plain(title) for title in own]
    named = [title for title in titles if title in said]
    valid = len(named) == 1
    strict = said in titles
    right = valid and named[0] == wanted, strict and said == wanted
    found[:, n] = valid, right[0], strict, right[1]
  return Judged(*found)


def plain(text: str) -> str:
  """Returns a text as answers and titles are compared."""
  return text.strip().lower().strip()
