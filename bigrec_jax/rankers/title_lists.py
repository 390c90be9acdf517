"""Lists of any ranker with each title once."""

import numpy as np
from jax.sharding import Mesh

from bigrec_jax.rankers import engine, protocol


def title_lists(
  ranker: protocol.Ranker,
  num_users: int,
  groups: np.ndarray,
  mesh: Mesh,
  *,
  k: int,
  most_users: int,
) -> np.ndarray:
  """Returns each user's first k titles [N, k] int32, best first.

  A title is where its best row is. Lists end with -1 where there are fewer
  titles than k.

  Args:
    ranker: of these users and of I items.
    num_users: N.
    groups: [I] int32, `Catalogue.groups`: the numbers that come back.
    mesh: all its devices share the items.
    k: list length.
    most_users: of a block.
  """
  # Rows that surely hold k titles: k - 1 of them are at most the largest.
  sizes = np.sort(np.bincount(groups))[::-1]
  enough = min(len(groups), int(sizes[: k - 1].sum()) + 1)
  _, rows = engine.lists(
    ranker, num_users, len(groups), mesh, k=enough, most_users=most_users
  )
  result = np.full((num_users, k), -1, np.int32)
  for own, titles in zip(result, groups[rows], strict=True):
    _, first = np.unique(titles, return_index=True)
    places = np.sort(first)[:k]
    own[: len(places)] = titles[places]
  return result
