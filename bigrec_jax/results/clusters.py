"""Rows of one user go together: what a bootstrap draws, what changes sign.

Where a user has several rows of a split (every item of theirs after the split
was a target), their rows are no independent draws: who is easy to please once
is so again. Then users are drawn, each with all their rows, and a sign is a
user's (the cluster bootstrap; Davison and Hinkley 1997, section 3.8; Cameron
and Miller 2015). A mean over rows is a ratio of two sums over users: of what
their rows add, and of how many rows they have. Where everybody has one row
there is nothing to put together, and `of_owners` says so.

Letters: N rows, U users, Q measures, B samples.
"""

import dataclasses

import numpy as np

# Numbers of samples at a time: bounds memory.
_MOST_DRAWN = 1 << 22


@dataclasses.dataclass(frozen=True, eq=False)
class Clusters:
  """Which rows are of one user.

  Attributes:
    of_row: [N] int64, the number of each row's user, 0 to U - 1.
    sizes: [U] int64, how many rows each user has.
  """

  of_row: np.ndarray
  sizes: np.ndarray

  def __len__(self) -> int:
    return len(self.sizes)

  def sums(self, values: np.ndarray) -> np.ndarray:
    """Returns [Q, U] float64: the sums over each user's rows.

    Args:
      values: [Q, N].
    """
    users = len(self)
    return np.stack([np.bincount(self.of_row, own, users) for own in values])

  def rows_of(self, users: np.ndarray) -> np.ndarray:
    """Returns the rows [n] of users that were drawn, who may be so twice."""
    order = np.argsort(self.of_row, kind="stable")
    starts = np.cumsum(self.sizes) - self.sizes
    sizes = self.sizes[users]
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return order[np.repeat(starts[users], sizes) + within]

  def take(self, rows: np.ndarray) -> "Clusters | None":
    """Returns those of some rows, as `of_owners` does."""
    return of_owners(self.of_row[rows])

  def interval(
    self, values: np.ndarray, samples: int, seed: int
  ) -> tuple[float, float]:
    """Returns the 95 % percentile bootstrap interval of a mean over rows.

    Args:
      values: [N].
      samples: B.
      seed: of numpy's default generator.
    """
    rng = np.random.default_rng(seed)
    drawn = means(self.sums(values[None]), self.sizes, samples, rng)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def of_owners(owners: np.ndarray | None) -> Clusters | None:
  """Returns the clusters; None where everybody has one row.

  Args:
    owners: [N] equal for rows of one user (`Examples.owners`); None = nobody
      knows.
  """
  if owners is None:
    return None
  _, of_row, sizes = np.unique(owners, return_inverse=True, return_counts=True)
  if len(sizes) == len(of_row):
    return None
  return Clusters(of_row.astype(np.int64), sizes.astype(np.int64))


def count(users: Clusters | None) -> int | None:
  """Returns how many users there are; None where each row is one."""
  return None if users is None else len(users)


def means(
  sums: np.ndarray, sizes: np.ndarray, samples: int, rng: np.random.Generator
) -> np.ndarray:
  """Returns [B, Q]: means over the rows of users drawn with replacement.

  Users with the same sums and as many rows are drawn as one class.

  Args:
    sums: [Q, U].
    sizes: [U].
    samples: B.
    rng: of the draws.
  """
  kinds, counts = np.unique(
    np.concatenate([sums, sizes[None]]), axis=1, return_counts=True
  )  # [Q + 1, classes]
  users = len(sizes)
  step = max(1, _MOST_DRAWN // len(counts))
  found = []
  for start in range(0, samples, step):
    size = min(step, samples - start)
    drawn = rng.multinomial(users, counts / users, size=size) @ kinds.T
    found.append(drawn[:, :-1] / drawn[:, -1:])
  return np.concatenate(found)
