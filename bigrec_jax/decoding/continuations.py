"""How probable texts are as continuations of others, by one pass each.

Letters: N texts, B rows of a batch, T positions, D width, V vocabulary.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigrec_jax import errors
from bigrec_jax.devices import sharding
from bigrec_jax.models import LanguageModel, embedding


def log_probabilities(
  model: LanguageModel,
  variables: Any,
  beginnings: Sequence[Sequence[int]],
  continuations: Sequence[Sequence[int]],
  mesh: Mesh,
  batch_size: int,
) -> np.ndarray:
  """Returns the sum of log-probabilities of each continuation's tokens.

  Args:
    model: the network.
    variables: its collections.
    beginnings: [N] token lists, none empty.
    continuations: [N] token lists, none empty, each behind its beginning.
    mesh: rows are split over its axes data and fsdp.
    batch_size: rows of a program; the row shards divide it.

  Returns:
    [N] float64.

  Raises:
    NonFiniteError: one is NaN or infinite.
  """
  texts = [
    [*own, *rest] for own, rest in zip(beginnings, continuations, strict=True)
  ]
  lengths = [len(text) for text in texts]
  unit = sharding.batch_size_unit(mesh)
  found = np.zeros(len(texts), np.float64)
  for batch in embedding.batches(lengths, batch_size, unit):
    tokens = np.zeros((batch.rows, batch.width), np.int32)
    # Rows that only fill the batch count nothing, and have one token.
    first = np.full(batch.rows, batch.width, np.int32)
    last = np.zeros(batch.rows, np.int32)
    for place, number in enumerate(batch.numbers):
      tokens[place, : lengths[number]] = texts[number]
      first[place] = len(beginnings[number])
      last[place] = lengths[number] - 1
    columns = (_put(mesh, column) for column in (tokens, first, last))
    sums = jax.device_get(_sums(model, mesh, variables, *columns))
    found[batch.numbers] = sums[: len(batch.numbers)]
  bad = np.flatnonzero(~np.isfinite(found))
  if bad.size:
    raise errors.NonFiniteError(
      int(bad[0]),
      "a log-probability that is NaN or infinite found, finite ones expected;"
      " look at the base's weights, at config.model.dtype and whether the"
      " tokenizer is the base's own",
    )
  return found


@functools.partial(jax.jit, static_argnames=("model", "mesh"))
def _sums(
  model: LanguageModel,
  mesh: Mesh,
  variables: Any,
  tokens: jax.Array,
  first: jax.Array,
  last: jax.Array,
) -> jax.Array:
  """Maps tokens [B, T] to the sums [B] over positions first to last."""
  model, variables = model.executable(variables)
  slots = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
  positions = jnp.broadcast_to(slots, tokens.shape)
  segments = (slots <= last[:, None]).astype(jnp.int32)
  hidden = model.apply(variables, tokens, positions, segments, True)

  def of_position(at: tuple[jax.Array, jax.Array]) -> jax.Array:
    states, following = at  # [B, D], [B]
    logits = model.apply(variables, states, method="logits")  # [B, V]
    own = jnp.take_along_axis(logits, following[:, None], axis=1)[:, 0]
    return own - jax.nn.logsumexp(logits, axis=1)

  # One position at a time: [B, T, V] of a large vocabulary is gigabytes.
  following = jnp.swapaxes(tokens[:, 1:], 0, 1)  # [T - 1, B]
  states = jnp.swapaxes(hidden[:, :-1], 0, 1)  # [T - 1, B, D]
  each = jax.lax.map(of_position, (states, following))  # [T - 1, B]
  place = slots[0, 1:, None]
  counted = (place >= first[None]) & (place <= last[None])
  sums = jnp.where(counted, each, 0.0).sum(axis=0)
  # Whole on every device, so that each host of several can read all of it.
  return jax.lax.with_sharding_constraint(sums, sharding.replicated(mesh))


def _put(mesh: Mesh, array: np.ndarray) -> jax.Array:
  """Splits rows that every process holds whole over the row shards."""
  return jax.make_array_from_callback(
    array.shape, sharding.batch_sharding(mesh), lambda index: array[index]
  )
