"""Epoch plans: which rows each step trains on, drawn and packed on the device.

Sequences are short (Beauty: 6 positions on average, 50 allowed), so a padded
batch is mostly padding. `packed` lays the sequences of each batch end to end
in as few rows as first-fit finds; attention and recurrence stop at the seams.
The batch itself stays what it would have been: `batch_size` random sequences.
"""

import functools

import jax
import jax.numpy as jnp

from bigrec_jax.devices import noise as noise_lib


def shuffled(noise: jax.Array, number: int, batch_size: int) -> jax.Array:
  """Returns a random order of rows in batches, [steps, B] int32.

  The last batch is filled up with -1.
  """
  order = jnp.argsort(noise_lib.bits(noise, (number,))).astype(jnp.int32)
  steps = -(-number // batch_size)
  order = jnp.pad(order, (0, steps * batch_size - number), constant_values=-1)
  return order.reshape(steps, batch_size)


def _first_fit(length: jax.Array, width: int) -> tuple[jax.Array, jax.Array]:
  """Places each batch's sequences, longest first, in rows of `width`.

  Args:
    length: [B, steps] int32, descending along B; 0 = nothing to place.
    width: positions of a row.

  Returns:
    (row, offset): [B, steps] int32 each.
  """
  batch, steps = length.shape

  def place(used, size):
    row = jnp.argmax(used + size[:, None] <= width, axis=1)  # [steps]
    offset = jnp.take_along_axis(used, row[:, None], axis=1)[:, 0]
    used = used.at[jnp.arange(steps), row].add(size)
    return used, (row.astype(jnp.int32), offset)

  empty = jnp.zeros((steps, batch), jnp.int32)
  return jax.lax.scan(place, empty, length)[1]


@functools.partial(jax.jit, static_argnames=("batch_size", "width"))
def packed(
  noise: jax.Array, length: jax.Array, *, batch_size: int, width: int
) -> tuple[jax.Array, jax.Array]:
  """Returns a packed plan of one epoch.

  Args:
    noise: seed of this run and epoch.
    length: [N] int32, inputs of each training row, at most `width`.
    batch_size: sequences per step.
    width: L, positions of a packed row.

  Returns:
    source: [steps, B, L] int32: position l of packed row b shows input
      `source % L` of training row `source // L`; -1 = padding.
    needed: scalar int32: packed rows that the fullest step uses. Rows from
      there on are all padding, so the caller cuts them off.
  """
  order = shuffled(noise, length.shape[0], batch_size)  # [steps, B]
  steps = order.shape[0]
  size = jnp.where(order >= 0, length[order], 0)
  longest_first = jnp.argsort(-size, axis=1)
  order = jnp.take_along_axis(order, longest_first, axis=1)
  size = jnp.take_along_axis(size, longest_first, axis=1)
  row, offset = (x.T for x in _first_fit(size.T, width))  # [steps, B]
  within = jnp.arange(width, dtype=jnp.int32)  # [L]
  live = within[None, None, :] < size[:, :, None]  # [steps, B, L]
  space = batch_size * width
  place = (row * width + offset)[:, :, None] + within[None, None, :]
  place = jnp.where(live, place, space)  # Past the end: dropped.
  value = order[:, :, None] * width + within[None, None, :]
  source = jnp.full((steps, space), -1, jnp.int32)
  source = source.at[jnp.arange(steps)[:, None, None], place].set(
    value, mode="drop"
  )
  needed = jnp.max(jnp.where(size > 0, row, -1)) + 1
  return source.reshape(steps, batch_size, width), needed
