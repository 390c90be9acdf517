"""A few titles of every user, found cheaply: what a costly scorer looks at.

Titles that beams wrote come first, then the first of another ranker (CF), then
those nearest to the first beam, until there are M.

Letters: N users, M candidates, W beams, C titles of CF, I items.
"""

from collections.abc import Sequence

import numpy as np

from bigrec_jax.config import GroundConfig
from bigrec_jax.devices import blocks
from bigrec_jax.rankers import protocol, title_lists
from bigrec_jax.rankers.combine import injection
from bigrec_jax.rankers.distance import lists, streamed

_CF_SHARE = 4  # A quarter of the candidates at most come from CF.


def of_users(
  table: streamed.Streamed,
  written: np.ndarray,
  queries: np.ndarray,
  cf: protocol.Ranker | None,
  most: int,
  config: GroundConfig,
) -> np.ndarray:
  """Returns each user's candidates [N, M] int32, as title numbers, -1 = none.

  Args:
    table: the catalogue.
    written: [N, W] titles that beams are exactly, -1 where they aren't.
    queries: [N, D] float32, embeddings of the first beams.
    cf: of these users; None = there is no CF.
    most: M.
    config: section `ground`.
  """
  groups, found = table.groups, [written]
  share = min(most // _CF_SHARE, len(np.unique(groups)))
  if cf is not None and share:
    found.append(
      title_lists.title_lists(
        cf,
        len(queries),
        groups,
        table.mesh,
        k=share,
        most_users=config.batch_size,
      )
    )
  found.append(nearest_titles(table, queries, most, config))
  return union(found, most)


def nearest_titles(
  table: streamed.Streamed,
  queries: np.ndarray,
  k: int,
  config: GroundConfig,
) -> np.ndarray:
  """Returns each user's k nearest titles [N, k] int32, by exact distance.

  Args:
    table: the catalogue.
    queries: [N, D] float32, embeddings of the first beams.
    k: at most I; a list ends with -1 where there are fewer titles.
    config: section `ground`.
  """
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
  return np.where(items >= 0, table.groups[items], -1).astype(np.int32)


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
