"""Texts as vectors: the base model's final-norm state at the last token.

BIGRec data/embedding.ipynb takes `hidden_states[-1][:, -1]` of the base LLaMA
(without the adapter) under left padding; here rows are padded at the right,
where causal attention cannot see it, and the last real token is picked.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigrec_jax import errors
from bigrec_jax.devices import sharding
from bigrec_jax.progress import Reports


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


@functools.partial(jax.jit, static_argnames=("model", "mesh"))
def _last_states(
  model: nn.Module, mesh: Mesh, params: Any, tokens: jax.Array, last: jax.Array
) -> jax.Array:
  """Maps tokens [B, T] and last positions [B] to float32 [B, D]."""
  slots = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
  positions = jnp.broadcast_to(slots, tokens.shape)
  segments = (slots <= last[:, None]).astype(jnp.int32)
  hidden = model.apply({"params": params}, tokens, positions, segments, True)
  states = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
  states = states.astype(jnp.float32)
  # Whole on every device, so that each host of several can read all of it.
  return jax.lax.with_sharding_constraint(states, sharding.replicated(mesh))


def embed_texts(
  model: nn.Module,
  params: Any,
  token_lists: Sequence[Sequence[int]],
  batch_size: int,
  mesh: Mesh,
  progress: Reports,
) -> np.ndarray:
  """Returns the state at the last token of each text.

  Args:
    model: the base, built without an adapter.
    params: its variables.
    token_lists: token ids of each text, as the tokenizer gives them. An empty
      one has no state to read: its vector is zero.
    batch_size: rows per program; the row shards of `mesh` divide it.
    mesh: of `params`.
    progress: told of every text done.

  Returns:
    [N, D] float32, in the order given.

  Raises:
    UserError: `batch_size` does not divide over the mesh, or a state isn't
      finite.
  """
  sharding.check_batch(mesh, batch_size, "embed.batch_size")
  vectors = np.zeros((len(token_lists), model.config.hidden_size), np.float32)
  pending = None
  lengths = [len(tokens) for tokens in token_lists]
  for bucket, rows in batches(lengths, batch_size):
    tokens = np.zeros((batch_size, bucket), np.int32)
    last = np.zeros(batch_size, np.int32)
    for place, row in enumerate(rows):
      tokens[place, : lengths[row]] = token_lists[row]
      last[place] = max(lengths[row] - 1, 0)
    inputs = (_put(mesh, tokens), _put(mesh, last))
    states = _last_states(model, mesh, params, *inputs)
    # The copy of one batch waits until the next one is under way.
    if pending is not None:
      _collect(vectors, *pending, progress)
    pending = rows, states
  if pending is not None:
    _collect(vectors, *pending, progress)
  vectors[np.array(lengths, np.int64) == 0] = 0.0
  bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
  if bad.size:
    raise errors.UserError(
      f"embedding: text {bad[0]} (of {len(bad)}) has states that are NaN or"
      " infinite, finite ones expected; check the base's weights and"
      " config.model.dtype"
    )
  return vectors


def _put(mesh: Mesh, array: np.ndarray) -> jax.Array:
  """Splits rows that every process holds whole over the row shards."""
  return jax.make_array_from_callback(
    array.shape, sharding.batch_sharding(mesh), lambda index: array[index]
  )


def _collect(
  vectors: np.ndarray, rows: np.ndarray, states: jax.Array, progress: Reports
) -> None:
  vectors[rows] = np.asarray(states)[: len(rows)]
  progress.update(len(rows))
