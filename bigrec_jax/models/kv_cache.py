"""Keys and values of past tokens: per user for prompts, per beam after.

The W beams of a user share everything up to the end of the prompt, so its
keys are stored once. What the beams wrote themselves is stored by (time, beam
that wrote it) and never moves: a beam that continues another one only copies
that one's row of `origin`, the table that says which beam wrote each of its
tokens. Reordering thus costs W * T integers a user instead of L layers of
keys and values.

Axes: L layers, B users, K key heads, S prompt, P shared prefix, T times,
W beams, H head size. Attention is one matrix product per (user, head), so
heads come before positions, and keys, which are the right-hand side of
q @ k, have positions last: the CPU's dot is 4 times faster on it.

Keys and values are stacked over layers for a scanned network, and a tuple of
L arrays, without axis L, for one whose layers follow one another. The latter
decodes faster on a CPU, where slicing a layer out of a stack is a copy.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bigrec_jax.devices import sharding

Layers = jax.Array | tuple[jax.Array, ...]


def _some_layer(layers: Layers) -> jax.Array:
  """Returns an array whose last axes are those of one layer."""
  return jax.tree.leaves(layers)[0]


class PromptCache(flax.struct.PyTreeNode):
  """Keys and values of the prompts, right padded.

  Attributes:
    k: [L, B, K, H, S], rotary embedding applied.
    v: [L, B, K, S, H].
    lengths: [B] int32, tokens of each prompt, the shared prefix included.
    prefix: keys [L, K, H, P] and values [L, K, P, H] of a prefix common to
      all prompts, or None.
  """

  k: Layers
  v: Layers
  lengths: jax.Array
  prefix: tuple[Layers, Layers] | None = None

  @property
  def prefix_length(self) -> int:
    """Tokens of the shared prefix."""
    if self.prefix is None:
      return 0
    return _some_layer(self.prefix[1]).shape[-2]

  @property
  def width(self) -> int:
    """S, the tokens of a prompt that it can hold."""
    return _some_layer(self.v).shape[-2]

  @property
  def valid(self) -> jax.Array:
    """[B, S] bool: which cached positions hold a token of the prompt."""
    own = self.lengths - jnp.int32(self.prefix_length)  # [B]
    slots = jnp.arange(self.width, dtype=jnp.int32)
    return slots[None, :] < own[:, None]

  def as_prefix(self) -> "PromptCache":
    """Returns an empty-prompt cache whose prefix is this one's only row.

    Raises:
      ValueError: there is more than one row, or a prefix already.
    """
    if self.lengths.shape[0] != 1 or self.prefix is not None:
      raise ValueError("a shared prefix is one unpadded row without prefix")
    row = lambda x: x[..., 0, :, :, :]  # noqa: E731
    return self.replace(
      k=jax.tree.map(lambda x: x[..., :0], self.k),
      v=jax.tree.map(lambda x: x[..., :0, :], self.v),
      prefix=jax.tree.map(row, (self.k, self.v)),
    )

  def with_width(self, width: int) -> "PromptCache":
    """Returns the cache with S = `width`, no less than the longest prompt."""
    more = width - self.width

    def fit(x, axis):
      if more <= 0:
        return jax.lax.slice_in_dim(x, 0, width, axis=axis)
      widths = [(0, 0)] * x.ndim
      widths[axis] = (0, more)
      return jnp.pad(x, widths)

    return self.replace(
      k=jax.tree.map(lambda x: fit(x, x.ndim - 1), self.k),
      v=jax.tree.map(lambda x: fit(x, x.ndim - 2), self.v),
    )

  def per_layer(self) -> "PromptCache":
    """Returns the same cache as tuples of layers."""
    split = lambda stack: tuple(stack[i] for i in range(len(stack)))  # noqa: E731
    prefix = self.prefix and (split(self.prefix[0]), split(self.prefix[1]))
    return self.replace(k=split(self.k), v=split(self.v), prefix=prefix)


class SuffixCache(flax.struct.PyTreeNode):
  """Keys and values that the beams wrote after their prompts.

  Axis T is a ring: all users write at `cursor`, which goes on to the next
  place and from the last to the first. A user who began later has fewer
  places with tokens of its own; which ones, `origin` says.

  Attributes:
    k: [L, B, K, H, T, W], by place and by the beam slot that wrote it.
    v: [L, B, K, T, W, H].
    origin: [B, W, T] int32: the slot that wrote place t of hypothesis w, -1
      where it has written nothing.
    cursor: [] int32, the place to write next.
  """

  k: Layers
  v: Layers
  origin: jax.Array
  cursor: jax.Array

  @property
  def room(self) -> int:
    """T, the tokens of a beam that it can hold."""
    return self.origin.shape[-1]

  @property
  def visible(self) -> jax.Array:
    """[B, W, T, W] bool: which written (place, slot) a beam descends from."""
    slots = jnp.arange(self.origin.shape[1], dtype=jnp.int32)
    return self.origin[:, :, :, None] == slots[None, None, None, :]

  def reorder(self, parents: jax.Array) -> "SuffixCache":
    """Lets beam w continue hypothesis `parents[b, w]`.

    Args:
      parents: [B, W] int32.
    """
    origin = jnp.take_along_axis(self.origin, parents[:, :, None], axis=1)
    return self.replace(origin=origin)

  def append(self, k: Layers, v: Layers) -> "SuffixCache":
    """Returns the cache with the keys and values of one more token.

    What a user wrote `room` tokens ago is lost.

    Args:
      k: [L, B, K, H, W].
      v: [L, B, K, W, H].
    """
    users, beams, _ = self.origin.shape
    own = jnp.arange(beams, dtype=jnp.int32)[None, :, None]
    own = jnp.broadcast_to(own, (users, beams, 1))

    def write(old, new, axis):
      new = jnp.expand_dims(new, axis)
      return jax.lax.dynamic_update_slice_in_dim(old, new, self.cursor, axis)

    return SuffixCache(
      k=jax.tree.map(lambda old, new: write(old, new, -2), self.k, k),
      v=jax.tree.map(lambda old, new: write(old, new, -3), self.v, v),
      origin=write(self.origin, own[..., 0], -1),
      cursor=(self.cursor + 1) % self.room,
    )

  def with_room(self, room: int) -> "SuffixCache":
    """Returns the cache with T = `room`; a shorter one keeps the newest."""
    old = self.room

    def fit(x, axis, value=0):
      x = jnp.roll(x, -self.cursor, axis)  # The oldest first.
      if room < old:
        return jax.lax.slice_in_dim(x, old - room, old, axis=axis)
      widths = [(0, 0)] * x.ndim
      widths[axis] = (0, room - old)
      return jnp.pad(x, widths, constant_values=value)

    return SuffixCache(
      k=jax.tree.map(lambda x: fit(x, x.ndim - 2), self.k),
      v=jax.tree.map(lambda x: fit(x, x.ndim - 3), self.v),
      origin=fit(self.origin, 2, value=-1),
      cursor=jnp.int32(old if room > old else 0),
    )


def rows_of(
  x: jax.Array, owners: jax.Array | None, mesh: Mesh | None
) -> jax.Array:
  """Picks a user's row for each of R rows of texts.

  Args:
    x: [B, ...], users split over the mesh.
    owners: [R] int32, users counted within the shard that has the row, so
      that nothing crosses devices; None = row r is user r's.
    mesh: None = one device.

  Returns:
    [R, ...].
  """
  if owners is None:
    return x
  shards = 1 if mesh is None else sharding.batch_size_unit(mesh)
  parts = x.reshape(shards, -1, *x.shape[1:])
  picked = jax.vmap(lambda part, own: jnp.take(part, own, axis=0))(
    parts, owners.reshape(shards, -1)
  )
  return picked.reshape(-1, *x.shape[1:])


def init_suffix(
  prompt: PromptCache, num_beams: int, num_steps: int
) -> SuffixCache:
  """Returns an empty suffix cache for the users of `prompt`.

  Args:
    prompt: their prompt cache, for sizes and dtype.
    num_beams: W.
    num_steps: T, the tokens of a beam that it holds.
  """

  def keys(k):
    *lead, size, _ = k.shape
    return jnp.zeros((*lead, size, num_steps, num_beams), k.dtype)

  def values(v):
    *lead, _, size = v.shape
    return jnp.zeros((*lead, num_steps, num_beams, size), v.dtype)

  users = prompt.lengths.shape[0]
  return SuffixCache(
    k=jax.tree.map(keys, prompt.k),
    v=jax.tree.map(values, prompt.v),
    origin=jnp.full((users, num_beams, num_steps), -1, jnp.int32),
    cursor=jnp.int32(0),
  )
