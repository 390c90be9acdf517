"""A catalogue that lists are made from: one copy of its vectors, any size.

`distance.ItemTable`, from which ranks at many gammas are made, keeps centred
vectors beside the given ones and the distances of a block of users to all
items. Here the vectors stay as they were given (a CPU device takes the host's
own memory, a memory map included), are centred block by block when they are
used, and no more than a block of distances exists at a time (`lowest`).

Letters: I items, D width, P shards, C items of a block.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from bigrec_jax.rankers import counting
from bigrec_jax.rankers.distance import distance

# Numbers of vectors that are centred at a time to measure them.
_BLOCK_NUMBERS = 1 << 21
_WRITTEN = 1024  # Rows that are replaced at a time.


class Vectors(NamedTuple):
  """The item axis on the devices; rows past I are padding.

  Attributes:
    given: [I', D] float32.
    mean: [D] float32, on every device.
    norms: [I'] float32, squared lengths of `given` minus `mean`.
  """

  given: jax.Array
  mean: jax.Array
  norms: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Streamed:
  """A catalogue ready for lists.

  Attributes:
    host: [I, D] float32, the embeddings as given.
    groups: [I] int32; rows of one number are one title.
    vectors: the device side.
    layout: of the item axis; a shard is one block, cut anew by whoever reads.
    mesh: over which it is sharded.
    real: [I] bool, which rows hold an item; others hold the vector of one that
      does, and no list has them. None = all rows do.
  """

  host: np.ndarray
  groups: np.ndarray
  vectors: Vectors
  layout: counting.ItemLayout
  mesh: Mesh
  real: np.ndarray | None = None


def streamed(
  embeddings: np.ndarray,
  groups: np.ndarray,
  mesh: Mesh,
  real: np.ndarray | None = None,
) -> Streamed:
  """Puts a catalogue on the mesh, rows sharded over all its axes.

  Args:
    embeddings: [I, D] float32, a memory map will do.
    groups: [I] int32; `np.arange(I)` where each row is its own title.
    mesh: any mesh.
    real: see `Streamed`; read whenever lists are made.

  Raises:
    UserError: an embedding holds NaN or infinity, or squares overflow.
  """
  embeddings = np.asarray(embeddings, np.float32)
  shard = -(-len(embeddings) // mesh.size)
  # As few rows of padding as can be: a shard that is padded is copied.
  layout = counting.ItemLayout(len(embeddings), mesh.size, shard, 1)
  given = counting.put_items(embeddings, layout, mesh)
  mean, norms = _measure(given, layout, mesh)
  host_norms = distance.whole(norms, mesh)[: len(embeddings)]
  distance.check_finite("item embeddings", embeddings, host_norms)
  vectors = Vectors(given, mean, norms)
  groups = np.asarray(groups, np.int32)
  return Streamed(embeddings, groups, vectors, layout, mesh, real)


def rewritten(table: Streamed, rows: slice) -> Streamed:
  """Returns the catalogue with some rows of `host` as they are there now.

  Args:
    table: lost to the caller.
    rows: that were changed, and nothing else. The mean stays, as it need only
      be the same for all.

  Raises:
    UserError: one holds NaN or infinity, or its square overflows.
  """
  given, mean, norms = table.vectors
  for start in range(rows.start, rows.stop, _WRITTEN):
    own = table.host[start : min(start + _WRITTEN, rows.stop)]
    new = np.zeros((_WRITTEN, table.host.shape[1]), np.float32)
    new[: len(own)] = own
    places = np.full(_WRITTEN, table.layout.padded, np.int32)
    places[: len(own)] = np.arange(start, start + len(own))
    given, norms, squares = _write(
      given, norms, mean, new, places, table.layout, table.mesh
    )
    distance.check_finite("added items", own, np.asarray(squares)[: len(own)])
  return dataclasses.replace(table, vectors=Vectors(given, mean, norms))


@functools.partial(
  jax.jit,
  static_argnames=("layout", "mesh"),
  donate_argnames=("given", "norms"),
)
def _write(
  given: jax.Array,
  norms: jax.Array,
  mean: jax.Array,
  new: jax.Array,
  places: jax.Array,
  layout: counting.ItemLayout,
  mesh: Mesh,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Puts rows [N, D] into their places [N]; those beyond I' are dropped."""
  squares = distance.squares(new - mean[None])

  def local(
    given: jax.Array,
    norms: jax.Array,
    new: jax.Array,
    squares: jax.Array,
    places: jax.Array,
  ) -> tuple[jax.Array, jax.Array]:
    own = places - counting.shard_index(mesh) * layout.rows
    # A negative place would count from the end.
    own = jnp.where(own < 0, layout.rows, own)
    return (
      given.at[own].set(new, mode="drop"),
      norms.at[own].set(squares, mode="drop"),
    )

  split, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
  given, norms = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(split, split, whole, whole, whole),
    out_specs=(split, split),
    check_vma=False,
  )(given, norms, new, squares, places)
  return given, norms, squares


def block_of(array: jax.Array, number: jax.Array, size: int) -> jax.Array:
  """Returns block `number` of `size` rows; the last one ends with the array.

  So that nothing need be padded: `first_new` says which of its rows the block
  before it has shown already.
  """
  start = jnp.minimum(number * size, len(array) - size)
  return jax.lax.dynamic_slice_in_dim(array, start, size)


def first_new(number: jax.Array, size: int, rows: int) -> jax.Array:
  """Returns the first row of block `number` that is in no block before it."""
  return number * size - jnp.minimum(number * size, rows - size)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _measure(
  given: jax.Array, layout: counting.ItemLayout, mesh: Mesh
) -> tuple[jax.Array, jax.Array]:
  """Returns the mean [D] and squared lengths around it [I'], by blocks."""
  size = max(1, min(layout.rows, _BLOCK_NUMBERS // max(given.shape[1], 1)))
  numbers = jnp.arange(-(-layout.rows // size), dtype=jnp.int32)

  def local(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    def add(total: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
      part = block_of(rows, number, size)
      fresh = jnp.arange(size) >= first_new(number, size, layout.rows)
      return total + jnp.where(fresh[:, None], part, 0.0).sum(axis=0), None

    # Padding rows are zero: they add nothing to the sum. The mean needn't be
    # exact, only the same vector for items and queries.
    nothing = jnp.zeros(rows.shape[1], jnp.float32)
    total, _ = jax.lax.scan(add, nothing, numbers)
    total = jax.lax.psum(total, mesh.axis_names)
    mean = total / jnp.float32(layout.num_items)

    def measure(norms: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
      part = distance.squares(block_of(rows, number, size) - mean[None])
      start = jnp.minimum(number * size, layout.rows - size)
      return jax.lax.dynamic_update_slice_in_dim(norms, part, start, 0), None

    empty = jnp.zeros(layout.rows, jnp.float32)
    return mean, jax.lax.scan(measure, empty, numbers)[0]

  split = PartitionSpec(mesh.axis_names)
  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=split,
    out_specs=(PartitionSpec(), split),
    check_vma=False,
  )(given)
