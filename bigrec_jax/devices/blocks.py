"""Blocks of users: how many at a time, their slices, rows padded to a block."""

from collections.abc import Iterator, Mapping

import numpy as np
from jax.sharding import Mesh

# Of a large catalogue a block reads all vectors from memory: fewer rows than
# this would do little with them (ranks among 1 M items: 2 users at a time took
# 177 s, 64 take 77).
_ENOUGH = 64
_MOST_SCORES = 1 << 26


def rows_at_once(
  items: int, mesh: Mesh, scores: Mapping[str, int], otherwise: int
) -> int:
  """Returns how many users or predictions a device scores at a time, >= 1.

  Args:
    items: that one device scores for each.
    mesh: of the devices.
    scores: by platform, how many float32 scores a block should have.
    otherwise: the same for other platforms.
  """
  wanted = scores.get(mesh.devices.flat[0].platform, otherwise)
  return max(1, wanted // items, min(_ENOUGH, _MOST_SCORES // items))


def user_blocks(num_users: int, block: int) -> Iterator[slice]:
  """Yields slices of at most `block` users; pad with `pad_rows` to `block`."""
  for start in range(0, num_users, block):
    yield slice(start, min(start + block, num_users))


def pad_rows(array: np.ndarray, rows: int) -> np.ndarray:
  """Repeats the last row until there are `rows`, so that shapes stay fixed."""
  return np.concatenate(
    [array, np.repeat(array[-1:], rows - len(array), axis=0)]
  )
