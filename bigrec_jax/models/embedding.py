"""Token ids as vectors: sharded batches of rows padded to few lengths."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from bigrec_jax import errors
from bigrec_jax.devices import sharding
from bigrec_jax.progress import Reports
from bigrec_jax.workdir import parts

# So few texts are read one at a time, and, up to this length, by one program:
# what a single user waits for.
FEW = 8
_FEW_LENGTH = 64
# Texts up to this length are read `batch_size` at a time, whatever the others.
_USUAL_LENGTH = 128
_SHOWN = 60  # Characters of a text in a message.
_MOST_SPARE_ROWS = 1024  # Of a program that has more rows than there are texts.


def length_bucket(length: int) -> int:
  """Returns the padded length: 8, 16, 24, 32, 48, 64, 96, 128, ...

  At most a third of a long row is padding, and titles of any catalogue
  compile a handful of programs.
  """
  if length <= 32:
    return max(8, -(-length // 8) * 8)
  power = 1 << (length - 1).bit_length()
  return power * 3 // 4 if length <= power * 3 // 4 else power


def alone_bucket(length: int) -> int:
  """Returns the padded length of one of few texts: 64, 96, 128, ..."""
  return length_bucket(max(length, _FEW_LENGTH))


def warn_of_cut(texts: Sequence[str], most: int) -> None:
  """Says which texts are read in part only, if there are any.

  Args:
    texts: those that are.
    most: tokens that are read of each.
  """
  if texts:
    logging.warning(
      "%d texts are longer than %d tokens, the first has %d characters: %r...;"
      " no more of each is read",
      len(texts),
      most,
      len(texts[0]),
      texts[0][:_SHOWN],
    )


class Batch(NamedTuple):
  """Texts that one program reads.

  Attributes:
    width: T, to which they are padded.
    numbers: of the texts.
    rows: B of the program, at least as many as there are texts.
  """

  width: int
  numbers: np.ndarray
  rows: int


def batches(
  lengths: Sequence[int], batch_size: int, unit: int
) -> Iterator[Batch]:
  """Yields texts in batches of one bucket each, shortest first.

  Texts far longer than most of the others are read a few at a time: one dirty
  title must not cost `batch_size` rows of thousands of tokens.

  Args:
    lengths: tokens of each text.
    batch_size: B of texts of usual lengths; a multiple of `unit`.
    unit: row shards of the mesh, which divide every B.
  """
  if not len(lengths):
    return
  batch_size = min(
    batch_size, max(_power(len(lengths), unit), _power(_MOST_SPARE_ROWS, unit))
  )
  buckets = np.array([length_bucket(n) for n in lengths])
  # Nine of ten are no longer; twice as much is nothing unusual.
  most = np.sort(buckets)[9 * (len(buckets) - 1) // 10]
  usual = max(_USUAL_LENGTH, 2 * int(most))
  for bucket in np.unique(buckets).tolist():
    numbers = np.flatnonzero(buckets == bucket)
    rows = batch_size
    if bucket > usual:
      rows = min(
        _power(len(numbers), unit),
        _power(batch_size * usual // bucket // 2 + 1, unit),
        batch_size,
      )
    for start in range(0, len(numbers), rows):
      yield Batch(bucket, numbers[start : start + rows], rows)


def _power(least: int, unit: int) -> int:
  """Returns the first of `unit`, 2 `unit`, 4 `unit`, ... that is no less."""
  rows = unit
  while rows < least:
    rows *= 2
  return rows


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
    batch_size: rows per program, fewer of long texts; the row shards of `mesh`
      divide it.
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
  unit = sharding.batch_size_unit(mesh)
  if len(token_lists) <= FEW:
    batch_size = unit
    padded = list(map(alone_bucket, lengths))
  for batch in batches(padded, batch_size, unit):
    # The batches are those of all texts, so that vectors are, to the bit.
    if kept.done[batch.numbers].all():
      continue
    tokens = np.zeros((batch.rows, batch.width), np.int32)
    sizes = np.zeros(batch.rows, np.int32)
    for place, number in enumerate(batch.numbers):
      tokens[place, : lengths[number]] = token_lists[number]
      sizes[place] = lengths[number]
    states = states_of(_put(mesh, tokens), _put(mesh, sizes))
    # The copy of one batch waits until the next one is under way.
    if pending is not None:
      _collect(kept, *pending, progress)
    pending = batch.numbers, sizes, states
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
