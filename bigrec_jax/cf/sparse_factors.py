"""Scores as a product of two sparse tables, as item_knn has them.

A user's weights on the items that they had, times what is near to each item:
both mostly zeros, so that a split of any size takes megabytes on disk.
"""

import dataclasses
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from bigrec_jax import errors
from bigrec_jax.workdir import arrays, storage

if TYPE_CHECKING:  # Slow to import, and most starts read no scores.
  import scipy.sparse as sp


@dataclasses.dataclass(frozen=True, eq=False)
class SparseScores:
  """Scores that are computed when they are read: `scores[rows] -> [n, I]`.

  Attributes:
    states: sparse [N, H] float32.
    items: sparse [H, I] float32.
  """

  states: "sp.csr_matrix"
  items: "sp.csr_matrix"

  @property
  def shape(self) -> tuple[int, int]:
    """(N, I)."""
    return (self.states.shape[0], self.items.shape[1])

  @property
  def dtype(self) -> np.dtype:
    """float32."""
    return np.dtype(np.float32)

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
    """Returns float32 [n, I] for a slice or an array of row numbers.

    A row is the same whatever other rows are read: its products are added in
    the order of its own entries.
    """
    return np.asarray((self.states[rows] @ self.items).toarray(), np.float32)


def save(path: pathlib.Path, matrix: "sp.csr_matrix") -> None:
  """Writes a sparse matrix atomically."""
  with storage.atomic_path(path) as temporary:
    with open(temporary, "wb") as file:
      np.savez(
        file,
        data=matrix.data.astype(np.float32),
        indices=matrix.indices.astype(np.int32),
        indptr=matrix.indptr.astype(np.int64),
        shape=np.array(matrix.shape, np.int64),
      )


def load(path: pathlib.Path) -> "sp.csr_matrix":
  """Reads what `save` wrote.

  Raises:
    UserError: it is missing, damaged, or holds NaN or infinity.
  """
  from scipy import sparse

  found = arrays.read_npz(path)
  try:
    rows, columns = (int(size) for size in found["shape"])
    matrix = sparse.csr_matrix(
      (found["data"], found["indices"], found["indptr"]), (rows, columns)
    )
    matrix.check_format(full_check=True)
    if matrix.dtype != np.float32:
      raise ValueError(f"{matrix.dtype} found, float32 expected")
  except (KeyError, ValueError, TypeError, IndexError) as error:
    raise errors.UserError(
      f"{path}: no sparse scores: {error}; run --mode=train_cf again"
    ) from None
  if not np.isfinite(matrix.data).all():
    raise errors.UserError(
      f"{path}: a number that isn't finite found, finite ones expected"
    )
  return matrix
