"""A few titles of every user, found cheaply: what a costly scorer looks at.

Titles that beams wrote come first, then the first of another ranker (CF), then
those nearest to the first beam, until there are M.

Letters: N users, M candidates, W beams, C titles of CF, I items.
"""

from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from bigrec_jax.config import GroundConfig
from bigrec_jax.devices import blocks
from bigrec_jax.rankers.combine import injection
from bigrec_jax.rankers.distance import lists, streamed


def nearest_titles(
  embeddings: np.ndarray,
  groups: np.ndarray,
  queries: np.ndarray,
  k: int,
  config: GroundConfig,
  mesh: Mesh,
) -> np.ndarray:
  """Returns each user's k nearest titles [N, k] int32, by exact distance.

  Args:
    embeddings: [I, D] float32.
    groups: [I] int32, `Catalogue.groups`: the numbers that come back.
    queries: [N, D] float32, embeddings of the first beams.
    k: at most I; a list ends with -1 where there are fewer titles.
    config: section `ground`.
    mesh: over which catalogue rows are sharded.
  """
  table = streamed.streamed(embeddings, groups, mesh)
  rows = max(1, min(config.batch_size, len(queries)))
  found = [
    lists.new_titles(
      table,
      lists.Users(
        queries[part],
        rows,
        injection.Injection(None, None),
        injection.Gammas.of(0.0),
        part.start,
        "candidates",
      ),
      k,
      np.zeros((len(queries[part]), 0), np.int32),
      config.block_items,
    ).items
    for part in blocks.user_blocks(len(queries), rows)
  ]
  items = np.concatenate(found)
  return np.where(items >= 0, groups[items], -1).astype(np.int32)


def union(lists_of: Sequence[np.ndarray], most: int) -> np.ndarray:
  """Returns each user's first titles of several lists, each title once.

  Args:
    lists_of: [N, any] int32 title numbers, -1 = none; earlier lists first.
    most: M.

  Returns:
    [N, M] int32, -1 where there are no more.
  """
  joined = np.concatenate(lists_of, axis=1)
  found = np.full((len(joined), most), -1, np.int32)
  for own, titles in zip(found, joined, strict=True):
    titles = titles[titles >= 0]
    _, first = np.unique(titles, return_index=True)
    kept = titles[np.sort(first)[:most]]
    own[: len(kept)] = kept
  return found
