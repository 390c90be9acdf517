"""Token ids as vectors: sharded batches of rows padded to few lengths."""

from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from bigrec_jax import errors
from bigrec_jax.devices import sharding
from bigrec_jax.progress import Reports
from bigrec_jax.workdir import parts

# So few texts are read one at a time, and, up to this length, by one program:
# what a single user waits for.
FEW = 8
_FEW_LENGTH = 64


def length_bucket(length: int) -> int:
  """Returns the padded length: 8, 16, 24, 32, 48, 64, 96, 128, ...

  At most a third of a long row is padding, and titles of any catalogue
  compile a handful of programs.
  """
  if length <= 32:
    return max(8, -(-length // 8) * 8)
  power = 1 << (length - 1).bit_length()
  return power * 3 // 4 if length <= power * 3 // 4 else power


def batches(
  lengths: Sequence[int], batch_size: int
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (padded length, row numbers) of at most `batch_size` rows each.

  Shortest first; rows of one batch share a bucket.
  """
  buckets = np.array([length_bucket(n) for n in lengths])
  for bucket in np.unique(buckets):
    rows = np.flatnonzero(buckets == bucket)
    for start in range(0, len(rows), batch_size):
      yield int(bucket), rows[start : start + batch_size]


def embed_tokens(
  states_of: Callable[[jax.Array, jax.Array], jax.Array],
  token_lists: Sequence[Sequence[int]],
  width: int,
  batch_size: int,
  mesh: Mesh,
  progress: Reports,
  kept: parts.Vectors | None = None,
) -> np.ndarray:
  """Returns one vector of each text.

  Args:
    states_of: maps tokens [B, T] and lengths [B], both int32 with rows split
      over the mesh, to [B, D] float32, whole on every device, so that each
      host of several can read all of it.
    token_lists: token ids of each text. An empty one has nothing to read: its
      vector is zero.
    width: D.
    batch_size: rows per program; the row shards of `mesh` divide it.
    mesh: where it runs.
    progress: told of every text done.
    kept: the batches that were done before, and where others go as they are
      done; None = nothing is kept.

  Returns:
    [N, D] float32, in the order given.

  Raises:
    UserError: `batch_size` does not divide over the mesh.
    NonFiniteError: a state is NaN or infinite.
  """
  sharding.check_batch(mesh, batch_size, "embed.batch_size")
  if kept is None:
    kept = parts.Vectors(None, "", len(token_lists), width)
  progress.skip(int(kept.done.sum()))
  pending = None
  lengths = padded = [len(tokens) for tokens in token_lists]
  if len(token_lists) <= FEW:
    batch_size = sharding.batch_size_unit(mesh)
    padded = [max(length, _FEW_LENGTH) for length in lengths]
  for bucket, rows in batches(padded, batch_size):
    # The batches are those of all texts, so that vectors are, to the bit.
    if kept.done[rows].all():
      continue
    tokens = np.zeros((batch_size, bucket), np.int32)
    sizes = np.zeros(batch_size, np.int32)
    for place, row in enumerate(rows):
      tokens[place, : lengths[row]] = token_lists[row]
      sizes[place] = lengths[row]
    states = states_of(_put(mesh, tokens), _put(mesh, sizes))
    # The copy of one batch waits until the next one is under way.
    if pending is not None:
      _collect(kept, *pending, progress)
    pending = rows, sizes, states
  if pending is not None:
    _collect(kept, *pending, progress)
  return kept.values


def _put(mesh: Mesh, array: np.ndarray) -> jax.Array:
  """Splits rows that every process holds whole over the row shards."""
  return jax.make_array_from_callback(
    array.shape, sharding.batch_sharding(mesh), lambda index: array[index]
  )


def _collect(
  kept: parts.Vectors,
  rows: np.ndarray,
  sizes: np.ndarray,
  states: jax.Array,
  progress: Reports,
) -> None:
  vectors = np.asarray(states)[: len(rows)]
  # An empty text has nothing to read.
  vectors = np.where(sizes[: len(rows), None] > 0, vectors, np.float32(0))
  bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
  if bad.size:
    row = int(rows[bad[0]])
    raise errors.NonFiniteError(
      row,
      "states that are NaN or infinite found, finite ones expected; check the"
      " encoder's weights, config.model.dtype and whether the tokenizer is the"
      " encoder's own",
      f"embedding: text {row}",
    )
  kept.add(rows, vectors)
  progress.update(len(rows))
