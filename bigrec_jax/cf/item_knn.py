"""ItemKNN: the sum of item-to-item similarities over the history.

Cosine of the users who had both items, the k nearest of each item kept
(Deshpande and Karypis 2004). Sparse products on the host: nothing here has a
shape that XLA could know beforehand.
"""

import dataclasses

import numpy as np
import scipy.sparse as sp

from bigrec_jax.cf import rows, sparse_factors

_CHUNK = 4096  # Items whose co-occurrences are held at a time.


@dataclasses.dataclass(frozen=True, eq=False)
class ItemKnn:
  """Fitted similarities.

  Attributes:
    similarity: sparse [I, I] float32; row h holds the k nearest items of h.
    decay: weight of a history item that is one step older than the next.
  """

  similarity: sp.csr_matrix
  decay: float

  def scores(self, history: np.ndarray) -> np.ndarray:
    """Returns the scores of every item, float32 [n, I].

    Args:
      history: [n, H] int32, padded at the right with -1.
    """
    return self.sparse(history)[:]

  def sparse(self, history: np.ndarray) -> sparse_factors.SparseScores:
    """Returns the scores as two sparse tables.

    Args:
      history: [n, H] int32, padded at the right with -1.
    """
    length = rows.lengths(history)
    order = np.arange(history.shape[1])
    age = length[:, None] - 1 - order[None]  # 0 = newest.
    live = history >= 0
    weight = (self.decay ** np.maximum(age, 0))[live].astype(np.float32)
    user = np.nonzero(live)[0]
    shape = (len(history), self.similarity.shape[0])
    had = sp.csr_matrix((weight, (user, history[live])), shape, np.float32)
    return sparse_factors.SparseScores(had, self.similarity)


def fit(
  pairs: np.ndarray, num_items: int, neighbours: int, decay: float
) -> ItemKnn:
  """Computes the similarities.

  Args:
    pairs: [n, 2] int64 distinct (user, item) interactions of train.
    num_items: I.
    neighbours: k; equal similarities by lowest item.
    decay: see `ItemKnn`.
  """
  users, user = np.unique(pairs[:, 0], return_inverse=True)
  ones = np.ones(len(pairs), np.float32)
  had = sp.csr_matrix((ones, (user, pairs[:, 1])), (len(users), num_items))
  count = np.asarray(had.sum(axis=0)).ravel()
  scale = 1.0 / np.sqrt(np.maximum(count, 1.0))
  scaled = (had @ sp.diags(scale)).tocsc().astype(np.float32)
  parts = []
  for start in range(0, num_items, _CHUNK):
    both = (scaled[:, start : start + _CHUNK].T @ scaled).tocsr()
    both.sort_indices()
    parts.append(_keep_nearest(both, start, neighbours))
  return ItemKnn(sp.vstack(parts, format="csr"), decay)


def _keep_nearest(
  similarity: sp.csr_matrix, start: int, neighbours: int
) -> sp.csr_matrix:
  """Drops the item itself and all but the k nearest of each row.

  Args:
    similarity: [C, I], rows `start`, `start + 1`, ... of the whole matrix.
    start: item of the first row.
    neighbours: k.
  """
  row = np.repeat(np.arange(similarity.shape[0]), np.diff(similarity.indptr))
  column, value = similarity.indices, similarity.data
  other = column != row + start
  row, column, value = row[other], column[other], value[other]
  order = np.lexsort((column, -value, row))
  row, column, value = row[order], column[order], value[order]
  count = np.bincount(row, minlength=similarity.shape[0])
  place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
  near = place < neighbours
  return sp.csr_matrix(
    (value[near], (row[near], column[near])), similarity.shape, np.float32
  )
