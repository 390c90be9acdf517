"""One block of users: distances on the devices, exact ones where they matter.

Letters: n users of a block, padded to B on the device; M most rows that share
a target's group.
"""

import dataclasses

import numpy as np

from bigrec_jax import errors
from bigrec_jax.devices import blocks
from bigrec_jax.rankers.distance import distance

# Distinct nearest vectors listed per user to find the exact minimum.
NEAR = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Members:
  """The catalogue rows of each group number.

  Attributes:
    order: [I] rows, group by group, ascending within.
    starts: [I + 1] where each number's rows begin in `order`.
  """

  order: np.ndarray
  starts: np.ndarray

  def rows(self, numbers: np.ndarray) -> np.ndarray:
    """Returns [n, M] rows of each number, ascending, padded with -1."""
    start, stop = self.starts[numbers], self.starts[numbers + 1]
    places = start[:, None] + np.arange((stop - start).max())
    inside = places < stop[:, None]
    rows = self.order[np.where(inside, places, 0)]
    return np.where(inside, rows, -1)


def members(groups: np.ndarray) -> Members:
  """Returns the rows of each group; numbers are in [0, I)."""
  counts = np.bincount(groups, minlength=len(groups))
  starts = np.concatenate([[0], np.cumsum(counts)])
  return Members(np.argsort(groups, kind="stable"), starts)


@dataclasses.dataclass(frozen=True, eq=False)
class UserBlock:
  """Users whose distances are on the devices.

  Attributes:
    table: the catalogue.
    queries: [n, D] float32.
    rows: B.
    device: distances of B users.
    least: [n] float64, exact least distance.
    farthest: [n], a squared distance that the farthest item surely reaches.
    twin: [n] int32, twin number of the nearest item.
    groups: [n] int32, group number of each target.
    members: [n, M] catalogue rows of the group, -1 = none; without targets M
      is 0.
    distances: [n, M] float64, exact; infinite where there is no member.
  """

  table: distance.ItemTable
  queries: np.ndarray
  rows: int
  device: distance.Block
  least: np.ndarray
  farthest: np.ndarray
  twin: np.ndarray
  groups: np.ndarray
  members: np.ndarray
  distances: np.ndarray

  def __len__(self) -> int:
    return len(self.queries)

  def pick(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (rows, exact distances) of member `places` [n] or [n, G]."""
    flat = places.reshape(len(self), -1)
    rows = np.take_along_axis(self.members, flat, axis=1)
    distances = np.take_along_axis(self.distances, flat, axis=1)
    return rows.reshape(places.shape), distances.reshape(places.shape)


def block_rows(
  table: distance.ItemTable, batch_size: int, block_items: int, users: int
) -> int:
  """Returns B: as many users as have room for their distances on a device.

  Args:
    table: the catalogue.
    batch_size: at most this many users.
    block_items: a device holds the distances of batch_size users to this many
      items; of fewer users where it has more items.
    users: that there are.
  """
  fit = batch_size * block_items // table.layout.rows
  return max(1, min(batch_size, fit, users))


def open_block(
  table: distance.ItemTable,
  member_rows: Members,
  queries: np.ndarray,
  targets: np.ndarray | None,
  rows: int,
  first_row: int,
  name: str,
) -> UserBlock:
  """Computes the distances of a block of users.

  Args:
    table: the catalogue.
    member_rows: of `table.groups`.
    queries: [n, D] float32.
    targets: [n] catalogue rows; None = nobody is ranked, only lists are made.
    rows: B >= n.
    first_row: of the block within its split, for messages.
    name: the split, for messages.

  Raises:
    UserError: a query isn't finite.
  """
  device, found = distance.block(
    blocks.pad_rows(queries, rows),
    table.mean,
    table.items,
    near=min(NEAR, len(table.host)),
    layout=table.layout,
    mesh=table.mesh,
  )
  # While the devices work: the targets' own distances.
  groups = np.zeros(len(queries), np.int32)
  rows_of = np.full((len(queries), 0), -1)
  if targets is not None:
    groups = table.groups[targets]
    rows_of = member_rows.rows(groups)
  exact = np.full(rows_of.shape, np.inf)
  users, places = np.nonzero(rows_of >= 0)
  exact[users, places] = distance.exact_pairs(
    queries, table, users, rows_of[users, places]
  )
  norms = np.asarray(device.norms)[: len(queries)]
  bad = np.flatnonzero(~np.isfinite(norms))
  if bad.size:
    raise errors.UserError(
      f"{name} queries: row {first_row + bad[0]} is NaN, infinite or too long"
      " for float32, finite embeddings expected"
    )
  near = distance.Near(*(np.asarray(part)[: len(queries)] for part in found))
  least, nearest = distance.nearest(near, norms, queries, table)
  return UserBlock(
    table,
    queries,
    rows,
    device,
    least,
    near.farthest,
    table.twins[nearest],
    groups,
    rows_of,
    exact,
  )


def check_spread(block: UserBlock, first_row: int, name: str) -> None:
  """Raises UserError for a user to whom all items are equally near.

  Their min-max distance is 0 / 0; the published scripts go on with NaN.

  Args:
    block: its users.
    first_row: of the block within its split.
    name: the split.
  """
  for user in np.flatnonzero(block.farthest <= block.least**2):
    values = distance.exact_row(block.queries[user], block.table)
    if values.max() == values.min():
      raise errors.UserError(
        f"{name} queries: row {first_row + user} is at distance"
        f" {values[0]:.6g} from all {len(values)} items, at least two different"
        " distances expected; inject nothing (config.ground.injections) or"
        " check the embeddings"
      )
