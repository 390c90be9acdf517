"""Keys and values of past tokens: per user for prompts, per beam after.

The W beams of a user share everything up to the end of the prompt, so its
keys are stored once. What the beams wrote themselves is stored by (pass, place
in it) and never moves: a beam that continues another one only copies that
one's row of `visible`, the table that says which tokens it is made of.
Reordering thus costs a table a user instead of L layers of keys and values.

Axes: L layers, B users, K key heads, S prompt, P shared prefix, T passes,
Q tokens of a pass (one of each beam, or chains of some), W beams, H head size.
Attention is one matrix product per (user, head), so heads come before
positions, and keys, which are the right-hand side of q @ k, have positions
last: the CPU's dot is 4 times faster on it.

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


class Chains(flax.struct.PyTreeNode):
  """A pass in which a beam may have several tokens, or none.

  Attributes:
    beams: [B, Q] int32, whose each token is; W where a place is empty.
    depths: [B, Q] int32, how many tokens of that beam go before it in this
      pass.
  """

  beams: jax.Array
  depths: jax.Array

  @property
  def sees(self) -> jax.Array:
    """[B, Q, Q] bool: which tokens of the pass a token sees; itself, too."""
    same = self.beams[:, :, None] == self.beams[:, None, :]
    return same & (self.depths[:, :, None] >= self.depths[:, None, :])

  def of_beams(self, num_beams: int) -> jax.Array:
    """Returns [B, W, Q] bool: which tokens are each beam's."""
    beams = jnp.arange(num_beams, dtype=jnp.int32)[None, :, None]
    return self.beams[:, None, :] == beams


class SuffixCache(flax.struct.PyTreeNode):
  """Keys and values that the beams wrote after their prompts.

  Axis T is a ring: all users write at `cursor`, which goes on to the next
  place and from the last to the first. A user who began later has fewer
  places with tokens of its own; which ones, `visible` says.

  Attributes:
    k: [L, B, K, H, T, Q].
    v: [L, B, K, T, Q, H].
    visible: [B, W, T, Q] bool, which tokens hypothesis w is made of.
    cursor: [] int32, the place to write next.
  """

  k: Layers
  v: Layers
  visible: jax.Array
  cursor: jax.Array

  @property
  def room(self) -> int:
    """T, the passes that it can hold."""
    return self.visible.shape[2]

  def reorder(self, parents: jax.Array) -> "SuffixCache":
    """Lets beam w continue hypothesis `parents[b, w]`.

    Args:
      parents: [B, W] int32.
    """
    index = parents[:, :, None, None]
    visible = jnp.take_along_axis(self.visible, index, axis=1)
    return self.replace(visible=visible)

  def append(
    self, k: Layers, v: Layers, chains: Chains | None = None
  ) -> "SuffixCache":
    """Returns the cache with the keys and values of one more pass.

    What a user wrote `room` passes ago is lost.

    Args:
      k: [L, B, K, H, Q].
      v: [L, B, K, Q, H].
      chains: Whose tokens they are; None = one of each beam.
    """
    users, beams, _, width = self.visible.shape
    if chains is None:
      own = jnp.eye(beams, width, dtype=jnp.bool_)[None]
      own = jnp.broadcast_to(own, (users, beams, width))
    else:
      own = chains.of_beams(beams)

    def write(old, new, axis):
      new = jnp.expand_dims(new, axis)
      return jax.lax.dynamic_update_slice_in_dim(old, new, self.cursor, axis)

    return SuffixCache(
      k=jax.tree.map(lambda old, new: write(old, new, -2), self.k, k),
      v=jax.tree.map(lambda old, new: write(old, new, -3), self.v, v),
      visible=write(self.visible, own, -2),
      cursor=(self.cursor + 1) % self.room,
    )

  def with_room(self, room: int) -> "SuffixCache":
    """Returns the cache with T = `room`; a shorter one keeps the newest."""
    old = self.room

    def fit(x, axis):
      x = jnp.roll(x, -self.cursor, axis)  # The oldest first.
      if room < old:
        return jax.lax.slice_in_dim(x, old - room, old, axis=axis)
      widths = [(0, 0)] * x.ndim
      widths[axis] = (0, room - old)
      return jnp.pad(x, widths)

    return SuffixCache(
      k=jax.tree.map(lambda x: fit(x, x.ndim - 2), self.k),
      v=jax.tree.map(lambda x: fit(x, x.ndim - 3), self.v),
      visible=fit(self.visible, 2),
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
  prompt: PromptCache,
  num_beams: int,
  num_steps: int,
  width: int | None = None,
) -> SuffixCache:
  """Returns an empty suffix cache for the users of `prompt`.

  Args:
    prompt: their prompt cache, for sizes and dtype.
    num_beams: W.
    num_steps: T, the passes that it holds.
    width: Q, the tokens of a pass; None = one of each beam.
  """
  width = num_beams if width is None else width

  def keys(k):
    *lead, size, _ = k.shape
    return jnp.zeros((*lead, size, num_steps, width), k.dtype)

  def values(v):
    *lead, _, size = v.shape
    return jnp.zeros((*lead, num_steps, width, size), v.dtype)

  users = prompt.lengths.shape[0]
  return SuffixCache(
    k=jax.tree.map(keys, prompt.k),
    v=jax.tree.map(values, prompt.v),
    visible=jnp.zeros((users, num_beams, num_steps, width), jnp.bool_),
    cursor=jnp.int32(0),
  )


def read_before(
  hidden: jax.Array, k: Layers, v: Layers
) -> tuple[Layers, Layers]:
  """Returns keys and values to write, made to depend on what was read.

  One write for all layers, outside their loop: the cache is updated in place,
  where a scanned output would be a second copy of it. What is written depends
  on `hidden`, by adding zeros, because XLA copies a cache that it cannot prove
  to be read by every layer before it is written (measured with layers one by
  one: 139 -> 82 ms CPU a step).

  Args:
    hidden: [B, Q, D], after all layers.
    k: [L, B, K, H, Q].
    v: [L, B, K, Q, H].
  """
  zeros = hidden[:, :, 0] * jnp.zeros((), hidden.dtype)  # [B, Q]

  def tied(x: jax.Array, own: jax.Array) -> jax.Array:
    return x + jnp.reshape(own, (1,) * (x.ndim - own.ndim) + own.shape)

  k = jax.tree.map(lambda x: tied(x, zeros[:, None, None, :]), k)
  v = jax.tree.map(lambda x: tied(x, zeros[:, None, :, None]), v)
  return k, v
