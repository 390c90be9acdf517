"""Keys and values of past tokens: per user for prompts, per beam after.

The W beams of a user share everything up to the end of the prompt, so its
keys are stored once. What the beams wrote themselves is stored by (step, beam
that wrote it) and never moves: a beam that continues another one only copies
that one's row of `origin`, the table that says which beam wrote each of its
tokens. Reordering thus costs W * T integers a user instead of L layers of
keys and values.

Axes: L layers, B users, K key heads, S prompt, P shared prefix, T steps,
W beams, H head size. Attention is one matrix product per (user, head), so
heads come before positions, and keys, which are the right-hand side of
q @ k, have positions last: the CPU's dot is 4 times faster on it.
"""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class PromptCache:
  """Keys and values of the prompts, right padded.

  Attributes:
    k: [L, B, K, H, S], rotary embedding applied.
    v: [L, B, K, S, H].
    lengths: [B] int32, tokens of each prompt, the shared prefix included.
    prefix: keys [L, K, H, P] and values [L, K, P, H] of a prefix common to
      all prompts, or None.
  """

  k: jax.Array
  v: jax.Array
  lengths: jax.Array
  prefix: tuple[jax.Array, jax.Array] | None = None

  @property
  def prefix_length(self) -> int:
    """Tokens of the shared prefix."""
    return 0 if self.prefix is None else self.prefix[1].shape[-2]

  @property
  def valid(self) -> jax.Array:
    """[B, S] bool: which cached positions hold a token of the prompt."""
    own = self.lengths - jnp.int32(self.prefix_length)  # [B]
    slots = jnp.arange(self.v.shape[-2], dtype=jnp.int32)
    return slots[None, :] < own[:, None]

  def as_prefix(self) -> "PromptCache":
    """Returns an empty-prompt cache whose prefix is this one's only row.

    Raises:
      ValueError: there is more than one row, or a prefix already.
    """
    if self.k.shape[1] != 1 or self.prefix is not None:
      raise ValueError("a shared prefix is one unpadded row without prefix")
    return self.replace(
      k=self.k[..., :0],
      v=self.v[:, :, :, :0],
      prefix=(self.k[:, 0], self.v[:, 0]),
    )


@flax.struct.dataclass
class SuffixCache:
  """Keys and values that the beams wrote after their prompts.

  Attributes:
    k: [L, B, K, H, T, W], by step and by the beam slot that wrote it.
    v: [L, B, K, T, W, H].
    origin: [B, W, T] int32: the slot that wrote token t of hypothesis w,
      -1 where nothing is written yet.
  """

  k: jax.Array
  v: jax.Array
  origin: jax.Array

  @property
  def visible(self) -> jax.Array:
    """[B, W, T, W] bool: which written (step, slot) a beam descends from."""
    slots = jnp.arange(self.origin.shape[1], dtype=jnp.int32)
    return self.origin[:, :, :, None] == slots[None, None, None, :]

  def reorder(self, parents: jax.Array) -> "SuffixCache":
    """Lets beam w continue hypothesis `parents[b, w]`.

    Args:
      parents: [B, W] int32.
    """
    origin = jnp.take_along_axis(self.origin, parents[:, :, None], axis=1)
    return self.replace(origin=origin)

  def append(self, k: jax.Array, v: jax.Array, step: jax.Array):
    """Returns the cache with the keys and values of one step added.

    Args:
      k: [L, B, K, H, W].
      v: [L, B, K, W, H].
      step: int32 scalar, at most T - 1.
    """
    zero = jnp.int32(0)
    users, beams, _ = self.origin.shape
    own = jnp.arange(beams, dtype=jnp.int32)[None, :, None]
    own = jnp.broadcast_to(own, (users, beams, 1))
    return SuffixCache(
      k=jax.lax.dynamic_update_slice(
        self.k, k[..., None, :], (zero, zero, zero, zero, step, zero)
      ),
      v=jax.lax.dynamic_update_slice(
        self.v, v[:, :, :, None], (zero, zero, zero, step, zero, zero)
      ),
      origin=jax.lax.dynamic_update_slice(self.origin, own, (zero, zero, step)),
    )


def init_suffix(
  prompt: PromptCache, num_beams: int, num_steps: int
) -> SuffixCache:
  """Returns an empty suffix cache for the users of `prompt`.

  Args:
    prompt: their prompt cache, for sizes and dtype.
    num_beams: W.
    num_steps: T, the most tokens that a beam feeds back.
  """
  *lead, _, size = prompt.v.shape
  users = prompt.lengths.shape[0]
  return SuffixCache(
    k=jnp.zeros((*lead, size, num_steps, num_beams), prompt.k.dtype),
    v=jnp.zeros((*lead, num_steps, num_beams, size), prompt.v.dtype),
    origin=jnp.full((users, num_beams, num_steps), -1, jnp.int32),
  )
