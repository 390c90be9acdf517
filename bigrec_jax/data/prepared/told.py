"""The split in numbers, as `prepare` prints it."""

from collections.abc import Mapping

import numpy as np

from bigrec_jax.data.formats import moments
from bigrec_jax.data.prepared import splits as splits_lib


def splits(windows: Mapping[str, splits_lib.Windows]) -> list[str]:
  """Returns a line for each split: examples, users, items and when.

  Args:
    windows: the examples by split.
  """
  lines, known = [], np.array([], np.int64)
  for split, own in windows.items():
    if not len(own):
      continue
    line = own.timeline
    users = np.unique(line.user[own.targets])
    targets = np.unique(line.item[own.targets])
    text = (
      f"{split}: {len(own):,} examples of {len(users):,} users, with"
      f" {len(targets):,} different targets"
    )
    times = line.timestamp[own.targets]
    if per := moments.per_second(times):
      ends = (moments.shown(int(t), per) for t in (times.min(), times.max()))
      text += f", {' to '.join(ends)}"
    if split == "train":
      known = users
    elif users.min() >= 0:
      new = len(np.setdiff1d(users, known, assume_unique=True))
      text += f"; {new:,} of its users give no train example"
    lines.append(text)
  return lines
