"""SASRec (Kang and McAuley 2018) as two repositories build it.

`dros`   YangZhengyi98/DROS: layer norm before attention, but only on the
         query; keys and values see the raw input, and the residual adds the
         normalised query. Positions count from the oldest item.
`s3rec`  RUCAIBox/CIKM2020-S3Rec: a post-norm BERT encoder, causal. Positions
         count from the newest item, as its left padding makes them.

Letters: B rows, T positions, Q query positions, D width, H heads, E head size.

The published DROS code hides a query when |sum(LayerNorm(x))| is 0, which at
initialisation is 0 up to rounding, so chance decides. Here padding decides.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigrec_jax.cf import layers
from bigrec_jax.cf.spec import NetworkSpec

# Hides a key. Finite: a row with nothing to see stays finite too.
_HIDDEN = -1e9


def _attend(
  query: jax.Array,  # [B, Q, D]
  key: jax.Array,  # [B, T, D]
  value: jax.Array,  # [B, T, D]
  visible: jax.Array,  # [B, Q, T] bool
  num_heads: int,
  scale: float,
  thin: nn.Module,
  noise: jax.Array | None,
) -> jax.Array:
  """Returns multi-head attention, [B, Q, D]; probabilities are thinned."""

  def split(x):
    return x.reshape(*x.shape[:2], num_heads, -1)  # [B, T, H, E]

  scores = jnp.einsum("bqhe,bthe->bhqt", split(query), split(key)) * scale
  scores = jnp.where(visible[:, None], scores, _HIDDEN)
  weights = thin(jax.nn.softmax(scores, axis=-1), noise)
  mixed = jnp.einsum("bhqt,bthe->bqhe", weights, split(value))
  return mixed.reshape(query.shape)


class DrosBlock(nn.Module):
  """One block of the DROS repository's SASRec."""

  spec: NetworkSpec

  @nn.compact
  def __call__(
    self,
    query: jax.Array,  # [B, Q, D]
    context: jax.Array,  # [B, T, D]
    visible: jax.Array,  # [B, Q, T]
    live: jax.Array,  # [B, Q] bool
    noise: jax.Array | None,
  ) -> jax.Array:
    """Returns [B, Q, D], zero where not live."""
    width = self.spec.hidden_size

    def dense(name):
      return layers.dense("dros", width, width, name)

    query = nn.LayerNorm(epsilon=1e-5, name="query_norm")(query)
    mixed = _attend(
      dense("query")(query),
      dense("key")(context),
      dense("value")(context),
      visible,
      self.spec.num_heads,
      1.0 / math.sqrt(width),  # Of the full width, whatever the heads.
      layers.Dropout(self.spec.dropout, name="attention_dropout"),
      noise,
    )
    h = nn.LayerNorm(epsilon=1e-5, name="attention_norm")(mixed + query)
    inner = dense("outer")(jax.nn.relu(dense("inner")(h)))
    inner = layers.Dropout(self.spec.dropout, name="dropout")(inner, noise)
    h = nn.LayerNorm(epsilon=1e-5, name="inner_norm")(inner + h)
    return jnp.where(live[..., None], h, 0.0)


class S3RecBlock(nn.Module):
  """One block of the S3-Rec repository's encoder."""

  spec: NetworkSpec

  @nn.compact
  def __call__(
    self,
    query: jax.Array,  # [B, Q, D]
    context: jax.Array,  # [B, T, D]
    visible: jax.Array,  # [B, Q, T]
    live: jax.Array,  # [B, Q]; unused: padding is never read again.
    noise: jax.Array | None,
  ) -> jax.Array:
    """Returns [B, Q, D]."""
    del live
    width, rate = self.spec.hidden_size, self.spec.dropout

    def dense(name, fan_in=width, features=width):
      return layers.dense("s3rec", fan_in, features, name)

    mixed = _attend(
      dense("query")(query),
      dense("key")(context),
      dense("value")(context),
      visible,
      self.spec.num_heads,
      1.0 / math.sqrt(width // self.spec.num_heads),
      layers.Dropout(rate, name="attention_dropout"),
      noise,
    )
    mixed = layers.Dropout(rate, name="mixed_dropout")(
      dense("mixed")(mixed), noise
    )
    h = nn.LayerNorm(epsilon=1e-12, name="attention_norm")(mixed + query)
    inner = jax.nn.gelu(dense("inner", width, 4 * width)(h), approximate=False)
    inner = dense("outer", 4 * width, width)(inner)
    inner = layers.Dropout(rate, name="dropout")(inner, noise)
    return nn.LayerNorm(epsilon=1e-12, name="inner_norm")(inner + h)


class SasRec(nn.Module):
  """Self-attention over the history; see the module docstring."""

  spec: NetworkSpec

  def setup(self) -> None:
    """Declares the parameters, shared by both methods."""
    spec = self.spec
    block = {"dros": DrosBlock, "s3rec": S3RecBlock}[spec.family]
    self.items = self.param(
      "items", layers.item_init(spec.family), (spec.rows, spec.hidden_size)
    )
    # The DROS repository leaves torch's N(0, 1).
    scale = 1.0 if spec.family == "dros" else layers.S3REC_SCALE
    self.position = self.param(
      "position",
      layers.normal(scale),
      (spec.max_length, spec.hidden_size),
    )
    self.blocks = [block(spec) for _ in range(spec.num_layers)]
    epsilon = 1e-5 if spec.family == "dros" else 1e-12
    self.norm = nn.LayerNorm(epsilon=epsilon)
    self.dropout = layers.Dropout(spec.dropout)

  def _embed(
    self, tokens: jax.Array, positions: jax.Array, noise: jax.Array | None
  ) -> jax.Array:
    x = self.items[tokens] + self.position[positions]  # [B, T, D]
    if self.spec.family == "s3rec":
      return self.dropout(self.norm(x), noise)
    x = self.dropout(x, noise)
    return jnp.where((tokens != self.spec.num_items)[..., None], x, 0.0)

  def _finish(self, x: jax.Array) -> jax.Array:
    return self.norm(x) if self.spec.family == "dros" else x

  def __call__(
    self,
    tokens: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    noise: jax.Array | None,
  ) -> jax.Array:
    """Returns the state after every position.

    Args:
      tokens: [B, T] int32 items, spec.num_items = padding.
      positions: [B, T] int32 in 0..max_length-1.
      segments: [B, T] int32; a position sees its own number only. -1 = padding.
      noise: seed of dropout; None = off.

    Returns:
      [B, T, D] float32.
    """
    order = jnp.arange(tokens.shape[1])
    causal = order[None, :] <= order[:, None]  # [T, T]
    same = segments[:, :, None] == segments[:, None, :]  # [B, T, T]
    live = segments >= 0
    visible = same & causal[None] & live[:, None, :]
    x = self._embed(tokens, positions, noise)
    for block in self.blocks:
      x = block(x, x, visible, live, noise)
    return self._finish(x)

  def last(
    self, tokens: jax.Array, length: jax.Array, noise: jax.Array | None
  ) -> jax.Array:
    """Returns the state after the last position only.

    The last block answers one query a row: a tenth of the work at T = 10.

    Args:
      tokens: [B, T] int32, padded at the right with spec.num_items; T at most
        max_length.
      length: [B] int32, items of each row; 0 counts as one of padding.
      noise: seed of dropout; None = off.

    Returns:
      [B, D] float32.
    """
    rows, width = tokens.shape
    last = jnp.maximum(length, 1) - 1  # [B]
    positions = self.spec.positions(length, width)
    order = jnp.arange(width)
    live = order[None, :] < length[:, None]  # [B, T]
    x = self._embed(tokens, positions, noise)
    causal = order[None, :] <= order[:, None]
    visible = causal[None] & live[:, None, :]
    for block in self.blocks[:-1]:
      x = block(x, x, visible, live, noise)
    query = jnp.take_along_axis(x, last[:, None, None], axis=1)  # [B, 1, D]
    x = self.blocks[-1](
      query, x, live[:, None, :], (length > 0)[:, None], noise
    )
    return self._finish(x)[:, 0]
