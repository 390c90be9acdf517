"""Metrics of lists: is the target in them, and what else are they like.

Lists are [N, K] catalogue rows, best first, each title once, padded with -1.

Diversity and coverage are GPT4Rec's ideas (Li et al., 2023), which compares
categories and brands. Nothing but titles is known of an item here, so the
tokens of titles stand for them; that is a reconstruction, and the figures are
comparable with each other only:

  diversity@K  1 - the mean Jaccard similarity of the tokens of two items of
               the list, over all pairs (titles without tokens are like none);
               of lists with two items or more
  coverage@K   the share of the history's distinct tokens that are in titles of
               the list; of users with a history

Letters: N users, K list length, H history length, I items, V tokens.
"""

import numpy as np
from scipy import sparse


def target_ranks(
  lists: np.ndarray, targets: np.ndarray, groups: np.ndarray
) -> np.ndarray:
  """Returns each target's place [N] int64 in its list, K where it isn't.

  Args:
    lists: [N, K].
    targets: [N] catalogue rows.
    groups: [I] int32; a title of the target's group is the target.
  """
  hits = (lists >= 0) & (groups[lists] == groups[targets][:, None])  # [N, K]
  return np.where(hits.any(axis=1), hits.argmax(axis=1), lists.shape[1])


def diversity(lists: np.ndarray, tokens: sparse.csr_array) -> np.ndarray:
  """Returns [N] float64, NaN where a list has fewer than two items.

  Args:
    lists: [N, K].
    tokens: [I, V], 1 where a title has a token.
  """
  number, vocabulary = len(lists), tokens.shape[1]
  user, _ = np.nonzero(lists >= 0)  # [n] of the items of all lists.
  items = tokens[lists[lists >= 0]].tocoo()  # [n, V]
  # A user's tokens have columns of their own: only pairs of one list meet.
  columns = user[items.row].astype(np.int64) * vocabulary + items.col
  shape = len(user), number * vocabulary
  own = sparse.csr_array((items.data, (items.row, columns)), shape=shape)
  shared = (own @ own.T).tocoo()
  pair = shared.row < shared.col
  one, other, both = shared.row[pair], shared.col[pair], shared.data[pair]
  size = tokens.sum(axis=1)[lists[lists >= 0]]
  similar = both / (size[one] + size[other] - both)
  total = np.bincount(user[one], similar.astype(np.float64), number)
  length = np.bincount(user, minlength=number)
  pairs = np.where(length > 1, length * (length - 1) / 2, np.nan)
  return 1.0 - total / pairs


def coverage(
  lists: np.ndarray, history: np.ndarray, tokens: sparse.csr_array
) -> np.ndarray:
  """Returns [N] float64, NaN where a history has no token.

  Args:
    lists: [N, K].
    history: [N, H] catalogue rows, padded with -1.
    tokens: [I, V], 1 where a title has a token.
  """
  known, listed = _union(history, tokens), _union(lists, tokens)
  size = known.sum(axis=1).astype(np.float64)
  covered = known.multiply(listed).sum(axis=1)
  return covered / np.where(size > 0, size, np.nan)


def _union(rows: np.ndarray, tokens: sparse.csr_array) -> sparse.csr_array:
  """Returns [N, V], 1 where any of a user's items has a token."""
  user, _ = np.nonzero(rows >= 0)
  place = user, rows[rows >= 0]
  shape = len(rows), tokens.shape[0]
  chosen = sparse.csr_array(
    (np.ones(len(user), np.float32), place), shape=shape
  )
  found = chosen @ tokens
  found.data[:] = 1.0
  return found
