"""L2 distances between queries and catalogue: fast bounds, exact decisions.

On the device d2 = |q|^2 + |e|^2 - 2 q.e, after both sides were moved by the
catalogue's mean (which changes no distance) so that the norms are small. That
identity cancels near 0; `squared_error` says by how much it may be off. What
a comparison of bounds cannot decide is decided on the host, by summing squared
differences of the original vectors in float64 (`exact`): few pairs, no
cancellation, an exact title at distance 0, equal vectors at equal distances.

Letters: B users of a block, I items, D width, P shards.
"""

import dataclasses
import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bigrec_jax import errors
from bigrec_jax.rankers import counting, top_k

UNIT = 2.0**-24  # Relative error of one float32 rounding.

# Squares are summed in runs of this length first: their error is then of
# 2 * sqrt(D) roundings at most rather than D.
_RUN = 64


class Items(NamedTuple):
  """The item axis on the devices; rows past I are padding.

  Attributes:
    vectors: [I', D] float32, minus the catalogue's mean.
    norms: [I'] float32, squared lengths of `vectors`.
    twins: [I'] int32, the first row with bitwise the same embedding.
    groups: [I'] int32, rows of one number count as one target.
  """

  vectors: jax.Array
  norms: jax.Array
  twins: jax.Array
  groups: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class ItemTable:
  """A catalogue ready for distances.

  Attributes:
    host: [I, D] float32, the embeddings as given.
    twins: [I] int32, as `Items.twins`.
    groups: [I] int32, as `Items.groups`.
    norms: [I] float32, as `Items.norms`.
    mean: [D] float32, on every device.
    items: the device side.
    layout: of the item axis.
    mesh: over which it is sharded.
  """

  host: np.ndarray
  twins: np.ndarray
  groups: np.ndarray
  norms: np.ndarray
  mean: jax.Array
  items: Items
  layout: counting.ItemLayout
  mesh: Mesh

  @functools.cached_property
  def num_distinct(self) -> int:
    """Distinct embeddings."""
    return len(np.unique(self.twins))


class Given(Protocol):
  """A catalogue whose embeddings [I, D] are at hand as given."""

  @property
  def host(self) -> np.ndarray: ...  # noqa: D102


def find_twins(vectors: np.ndarray) -> np.ndarray:
  """Returns [I] int32: the first row with bitwise the same vector.

  Args:
    vectors: [I, D] float32.
  """
  words = np.ascontiguousarray(vectors, np.float32).view(np.uint32)
  # Equal rows have equal sums; the few that share one are compared in full.
  sums = words.sum(axis=1, dtype=np.uint64)
  twins = np.arange(len(vectors), dtype=np.int32)
  _, inverse, counts = np.unique(sums, return_inverse=True, return_counts=True)
  shared = np.flatnonzero(counts[inverse] > 1)
  first: dict[bytes, int] = {}
  for row in shared:
    twins[row] = first.setdefault(words[row].tobytes(), int(row))
  return twins


def squares(x: jax.Array) -> jax.Array:
  """Squared lengths of [N, D], summed in two levels."""
  width = x.shape[1]
  x = jnp.pad(x * x, ((0, 0), (0, -width % _RUN)))
  return x.reshape(len(x), -1, _RUN).sum(axis=2).sum(axis=1)


def _centre(
  vectors: jax.Array, layout: counting.ItemLayout, mesh: Mesh
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns the mean, and local vectors minus it with their norms."""

  def local(rows: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    # Padding rows are zero: they add nothing to the sum. The mean needn't be
    # exact, only the same vector for items and queries.
    total = jax.lax.psum(rows.sum(axis=0), mesh.axis_names)
    mean = total / jnp.float32(layout.num_items)
    rows = rows - mean[None]
    return mean, rows, squares(rows)

  split = PartitionSpec(mesh.axis_names)
  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=split,
    out_specs=(PartitionSpec(), split, split),
    check_vma=False,
  )(vectors)


_centre_copied = jax.jit(_centre, static_argnums=(1, 2))
_centre_in_place = jax.jit(_centre, static_argnums=(1, 2), donate_argnums=0)


def item_table(
  embeddings: np.ndarray, groups: np.ndarray, mesh: Mesh
) -> ItemTable:
  """Puts a catalogue on the mesh, rows sharded over all its axes.

  Args:
    embeddings: [I, D] float32.
    groups: [I] int32; `np.arange(I)` where each row is its own target.
    mesh: any mesh.

  Raises:
    UserError: an embedding holds NaN or infinity, or squares overflow.
  """
  embeddings = np.asarray(embeddings, np.float32)
  layout = counting.item_layout(len(embeddings), mesh, len(embeddings))
  put = functools.partial(counting.put_items, layout=layout, mesh=mesh)
  # A CPU device may have taken the caller's own memory: leave that alone.
  shared = mesh.devices.flat[0].platform == "cpu"
  centre = _centre_copied if shared else _centre_in_place
  mean, vectors, norms = centre(put(embeddings), layout, mesh)
  host_norms = whole(norms, mesh)[: len(embeddings)]
  check_finite("item embeddings", embeddings, host_norms)
  twins = find_twins(embeddings)
  groups = np.asarray(groups, np.int32)
  items = Items(vectors, norms, put(twins), put(groups))
  return ItemTable(
    embeddings, twins, groups, host_norms, mean, items, layout, mesh
  )


def whole(x: jax.Array, mesh: Mesh) -> np.ndarray:
  """Returns all of an array that may be split over devices and hosts."""
  if not x.is_fully_addressable:
    x = jax.device_put(x, NamedSharding(mesh, PartitionSpec()))
  return np.asarray(x)


def check_finite(name: str, vectors: np.ndarray, norms: np.ndarray) -> None:
  """Raises UserError that names the first row that isn't finite.

  Args:
    name: of what the rows are.
    vectors: [N, D] as given.
    norms: [N] squared lengths of the centred vectors: cheap to look at, but
      one bad row spoils the mean and so all of them.
  """
  if np.isfinite(norms).all():
    return
  with np.errstate(over="ignore", invalid="ignore"):
    bad = [n for n, v in enumerate(vectors) if not np.isfinite(v @ v)]
  where = f"row {bad[0]} (of {len(bad)})" if bad else "their mean"
  raise errors.UserError(
    f"{name}: {where} is NaN, infinite or too long for float32, finite vectors"
    " expected"
  )


def squared_error(
  width: int, query_norms: Any, item_norms: Any, xp: Any
) -> Any:
  """Returns how far a squared distance of `block` may be from the truth.

  A float32 dot product of D terms is off by about sqrt(D) roundings u of
  |q| |e|, not D of them, since roundings are as good as independent (Higham
  and Mary 2019, SIAM J. Sci. Comput. 41(5)). At worst, added one after the
  other with the largest terms first, the standard deviation is sqrt(D / 3) u;
  five of them, with 2 |q| |e| <= |q|^2 + |e|^2, and the norms, the centring
  and the last sums stay under (3 sqrt(D) + 16) u (|q|^2 + |e|^2). On a CPU,
  which adds in blocks, the worst seen was 19 u at D = 4096, 29 u at 256.

  Args:
    width: D.
    query_norms: squared lengths of the centred queries.
    item_norms: squared lengths of the centred items; shapes broadcast.
    xp: jax.numpy or numpy; all arrays are float32.
  """
  factor = xp.float32((3.0 * width**0.5 + 16.0) * UNIT)
  return factor * (query_norms + item_norms)


def root_error(distance: Any, error: Any, xp: Any) -> Any:
  """Returns how far a distance may be off whose square is off by `error`.

  |sqrt(x) - sqrt(y)| <= min(|x - y| / sqrt(x), sqrt(|x - y|)), and the root's
  own rounding.
  """
  floor = xp.sqrt(error) + xp.float32(1e-30)
  return error / xp.maximum(distance, floor) + xp.float32(4 * UNIT) * distance


class Block(NamedTuple):
  """Distances of one block of users, on the devices.

  Attributes:
    squared: [B, I'] float32 squared distances, sharded over the item axis;
      `squared_error` bounds them.
    norms: [B] float32, squared lengths of the centred queries.
  """

  squared: jax.Array
  norms: jax.Array


class Near(NamedTuple):
  """Each user's nearest distinct vectors, inexact; on device or host.

  Attributes:
    squared: [B, n] squared distances, ascending.
    items: [B, n], the first row of each vector.
    farthest: [B], a squared distance that the farthest item surely reaches.
  """

  squared: Any
  items: Any
  farthest: Any


@functools.partial(jax.jit, static_argnames=("near", "layout", "mesh"))
def block(
  queries: jax.Array,
  mean: jax.Array,
  items: Items,
  *,
  near: int,
  layout: counting.ItemLayout,
  mesh: Mesh,
) -> tuple[Block, Near]:
  """Returns distances of one block of queries [B, D] to every item.

  Args:
    queries: as embedded.
    mean: of the `ItemTable`.
    items: of the `ItemTable`.
    near: how many nearest vectors to list, at most I.
    layout: of `items`.
    mesh: of `items`.
  """

  def local(
    items: Items, queries: jax.Array, mean: jax.Array
  ) -> tuple[jax.Array, ...]:
    centred = queries - mean[None]
    norms = squares(centred)
    dots = jax.lax.dot_general(
      centred,
      items.vectors,
      (((1,), (1,)), ((), ())),
      precision=jax.lax.Precision.HIGHEST,
      preferred_element_type=jnp.float32,
    )  # [B, I' / P]
    total = norms[:, None] + items.norms[None]
    squared = jnp.maximum(total - 2.0 * dots, 0.0)
    error = squared_error(
      queries.shape[1], norms[:, None], items.norms[None], jnp
    )
    first = counting.shard_index(mesh) * layout.rows
    columns = first + jnp.arange(layout.rows, dtype=jnp.int32)
    real = columns < layout.num_items
    reached = jnp.where(real[None], squared - error, -jnp.inf).max(axis=1)
    farthest = jax.lax.pmax(reached, mesh.axis_names)
    distinct = real & (items.twins == columns)
    shown = jnp.where(distinct[None], squared, jnp.inf)
    nearest, places = top_k.stable_top_k(shown, min(near, layout.rows))
    nearest, rows = top_k.gather_top_k(nearest, first + places, near, mesh)
    return squared, norms, nearest, rows, farthest

  split = PartitionSpec(mesh.axis_names)
  whole = PartitionSpec()
  squared, norms, *nearest = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(split, whole, whole),
    out_specs=(PartitionSpec(None, mesh.axis_names),) + (whole,) * 4,
    check_vma=False,
  )(items, queries, mean)
  return Block(squared, norms), Near(*nearest)


def exact(queries: np.ndarray, items: np.ndarray) -> np.ndarray:
  """Returns true distances of pairs: float64 sums of squared differences.

  Args:
    queries: [n, D] float32.
    items: [n, D] float32.

  Returns:
    [n] float64. Bitwise equal pairs give bitwise equal distances, 0 for a
    vector and itself.
  """
  result = np.empty(len(queries))
  # Small pieces stay in cache; a row's sum doesn't depend on the piece.
  step = max(1, (1 << 17) // max(queries.shape[1], 1))
  for start in range(0, len(queries), step):
    stop = start + step
    difference = queries[start:stop].astype(np.float64)
    difference -= items[start:stop]
    difference *= difference
    result[start:stop] = np.sqrt(difference.sum(axis=1))
  return result


def exact_pairs(
  queries: np.ndarray, table: Given, users: np.ndarray, items: np.ndarray
) -> np.ndarray:
  """Returns [n] true distances of (user, item) pairs; see `exact`.

  Args:
    queries: [N, D] float32.
    table: the catalogue.
    users: [n] rows of `queries`.
    items: [n] catalogue rows.
  """
  # A pair may be asked for at many gammas.
  keys = users.astype(np.int64) * len(table.host) + items
  keys, inverse = np.unique(keys, return_inverse=True)
  users, items = np.divmod(keys, len(table.host))
  result = np.empty(len(keys))
  for start in range(0, len(keys), 256):  # Bounds what the gathers copy.
    part = slice(start, start + 256)
    result[part] = exact(queries[users[part]], table.host[items[part]])
  return result[inverse]


def nearest(
  near: Near, norms: np.ndarray, queries: np.ndarray, table: ItemTable
) -> tuple[np.ndarray, np.ndarray]:
  """Returns each user's exact least distance and the first row that has it.

  Args:
    near: from `block`, on the host, cut to the n users.
    norms: [n], of the same `block`.
    queries: [n, D].
    table: the catalogue.

  Returns:
    ([n] float64, [n] int32, the lowest row among the nearest).
  """
  found = near.items.astype(np.int64)
  error = squared_error(
    queries.shape[1], norms[:, None], table.norms[found], np
  )
  # Any of these may be the nearest; mostly it is one. The list of a catalogue
  # with few distinct vectors ends in infinity.
  listed = np.isfinite(near.squared)
  lowest = np.where(listed, near.squared, 0.0) - error
  reach = near.squared[:, :1] + error[:, :1]
  maybe = listed & (lowest <= reach)
  users, places = np.nonzero(maybe)
  values = np.full(maybe.shape, np.inf)
  values[maybe] = exact_pairs(queries, table, users, found[maybe])
  least = values.min(axis=1)
  rows = np.where(values == least[:, None], found, len(table.host)).min(axis=1)
  # All listed are in doubt and there are more: look at everything.
  crowded = maybe.all(axis=1) & (maybe.shape[1] < table.num_distinct)
  for user in np.flatnonzero(crowded):
    everything = exact_row(queries[user], table)
    least[user], rows[user] = everything.min(), everything.argmin()
  return least, rows.astype(np.int32)


def exact_row(query: np.ndarray, table: ItemTable) -> np.ndarray:
  """Returns [I] true distances of one query [D] to every item."""
  rows = np.arange(len(table.host))
  return exact_pairs(query[None], table, np.zeros_like(rows), rows)
