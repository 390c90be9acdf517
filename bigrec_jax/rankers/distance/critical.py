"""Which gammas put an item before the target: one code per item.

As gamma grows an item changes sides once, at its critical gamma. Its code says
between which two gammas of the grid that is and in which direction; counting
codes counts the items before the target at every gamma of the grid at once.

Letters: B users, C items, G gammas.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Grid(NamedTuple):
  """Positive gammas, and a table that finds an interval without a search.

  A float32's upper half names a cell; the table has the number of gammas
  below the cell, and at most `Shape.steps` comparisons settle the rest.

  Attributes:
    gammas: [G + 1] float32 ascending, padded with infinity.
    table: [cells] int32.
  """

  gammas: np.ndarray
  table: np.ndarray


@dataclasses.dataclass(frozen=True)
class Shape:
  """The static side of every grid that fits one compiled program.

  Attributes:
    gammas: G.
    first: number of the first cell.
    cells: how many there are.
    steps: most gammas in a cell.
  """

  gammas: int
  first: int
  cells: int
  steps: int


def _cell(value: np.ndarray) -> np.ndarray:
  return np.asarray(value, np.float32).view(np.int32) >> 16


def grid_shape(gammas: np.ndarray) -> Shape:
  """Returns a shape for all subsets of these positive, ascending gammas."""
  cells = _cell(gammas)
  first, last = int(cells[0]) - 1, int(cells[-1]) + 1
  steps = int(np.bincount(cells - first).max())
  return Shape(len(gammas), first, last - first + 1, steps)


def grid(gammas: np.ndarray, shape: Shape) -> Grid:
  """Returns the device view of a subset of the gammas of `shape`."""
  padded = np.full(shape.gammas + 1, np.inf, np.float32)
  padded[: len(gammas)] = gammas
  starts = np.arange(shape.first, shape.first + shape.cells, dtype=np.int32)
  table = np.searchsorted(padded[:-1], (starts << 16).view(np.float32))
  return Grid(padded, table.astype(np.int32))


def bucket_by_comparison(critical: jax.Array, grid: Grid) -> jax.Array:
  """Returns how many gammas are less than each critical one.

  For accelerators, where a fused pass of comparisons costs less than looking
  single numbers up.
  """
  gammas = jnp.expand_dims(grid.gammas, tuple(range(critical.ndim)))
  less = gammas < critical[..., None]
  return less.sum(axis=-1, dtype=jnp.int32)


def bucket_by_table(critical: jax.Array, grid: Grid, shape: Shape) -> jax.Array:
  """Returns the same for a CPU: a look-up and `shape.steps` comparisons."""
  low = np.int32(shape.first << 16).view(np.float32)
  high = np.int32((shape.first + shape.cells - 1) << 16).view(np.float32)
  inside = jnp.clip(critical, low, high)
  cell = (jax.lax.bitcast_convert_type(inside, jnp.int32) >> 16) - shape.first
  bucket = grid.table[cell]
  for _ in range(shape.steps):
    bucket = bucket + (grid.gammas[bucket] < critical).astype(jnp.int32)
  return bucket


def _bucket(critical: jax.Array, grid: Grid, shape: Shape) -> jax.Array:
  return jax.lax.platform_dependent(
    critical,
    grid,
    cpu=lambda critical, grid: bucket_by_table(critical, grid, shape),
    default=bucket_by_comparison,
  )


def key(
  a: jax.Array, b: jax.Array, grid: Grid, shape: Shape, certain: bool
) -> jax.Array:
  """Codes for which gammas a < gamma * b: from bucket k on, or up to k.

  Returns:
    int32: k <= G means gammas k, k + 1, ...; G + 1 + k means those below k.
  """
  flat = b == 0.0
  bucket = _bucket(a / jnp.where(flat, jnp.float32(1), b), grid, shape)
  always = jnp.where(flat, a < 0.0 if certain else a <= 0.0, False)
  never = flat | ((b < 0.0) & (a >= 0.0))
  key = jnp.where(b < 0.0, shape.gammas + 1 + bucket, bucket)
  key = jnp.where(never, shape.gammas, key)
  return jnp.where(always, 0, key)


def before(key: jax.Array, column: jax.Array, shape: Shape) -> jax.Array:
  """Returns whether a coded item is before the target at a gamma's number."""
  up_to = key > column + (shape.gammas + 1)
  return (key <= column) | up_to


def counts_by_comparison(keys: jax.Array, shape: Shape) -> jax.Array:
  """Counts as `counts` does, on accelerators: one fused pass of comparisons."""
  columns = jnp.arange(shape.gammas, dtype=jnp.int32)
  hits = before(keys[:, None], columns[None, :, None], shape)
  return hits.sum(axis=2, dtype=jnp.int32)


def counts(keys: jax.Array, shape: Shape) -> jax.Array:
  """Counts [B, C] coded items before the target at each gamma: [B, G]."""

  def by_histogram(keys: jax.Array) -> jax.Array:
    # A CPU adds to 400 counters in its first cache faster than it compares
    # 200 times: 0.03 s instead of 1.5 s for 512 x 17,408 keys, 199 gammas.
    size = 2 * (shape.gammas + 1)
    histogram = jax.lax.map(
      lambda row: jnp.zeros(size, jnp.int32).at[row].add(1), keys
    )
    from_on, up_to = jnp.split(histogram, 2, axis=1)
    from_on = jnp.cumsum(from_on, axis=1)[:, :-1]
    passed = jnp.cumsum(up_to, axis=1)
    return from_on + passed[:, -1:] - passed[:, :-1]

  return jax.lax.platform_dependent(
    keys,
    cpu=by_histogram,
    default=lambda keys: counts_by_comparison(keys, shape),
  )
