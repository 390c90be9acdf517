"""GRU4Rec (Hidasi et al. 2016): one recurrent layer over the history.

`dros`   item embedding, GRU, untied head (YangZhengyi98/DROS).
`s3rec`  dropout on the embedding, GRU, a projection, scored against the item
         table. The S3-Rec authors' own version isn't published; this one
         follows their protocol.

Letters: B rows, T positions, D width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigrec_jax.cf import layers
from bigrec_jax.cf.spec import NetworkSpec


class Gru4Rec(nn.Module):
  """See the module docstring."""

  spec: NetworkSpec

  def setup(self) -> None:
    """Declares the parameters, shared by both methods."""
    spec, width = self.spec, self.spec.hidden_size
    init = layers.uniform(width)
    self.items = self.param(
      "items", layers.item_init(spec.family), (spec.rows, width)
    )
    self.input_kernel = self.param("input_kernel", init, (width, 3 * width))
    self.input_bias = self.param("input_bias", init, (3 * width,))
    self.state_kernel = self.param("state_kernel", init, (width, 3 * width))
    self.state_bias = self.param("state_bias", init, (3 * width,))
    if spec.family == "s3rec":
      self.dropout = layers.Dropout(spec.dropout)
      self.out = layers.dense("s3rec", width, width, "out")

  def _run(
    self,
    tokens: jax.Array,
    start: jax.Array,
    live: jax.Array,
    noise: jax.Array | None,
  ) -> tuple[jax.Array, jax.Array]:
    """Returns (last states [B, D], all states [B, T, D]).

    `start` [B, T] marks where a sequence begins, `live` [B, T] what is read.
    """
    x = self.items[tokens]
    if self.spec.family == "s3rec":
      x = self.dropout(x, noise)
    inputs = x @ self.input_kernel + self.input_bias[None, None]  # [B, T, 3D]

    def step(h, now):
      gates, begin, read = now
      h = jnp.where(begin[:, None], jnp.zeros((), h.dtype), h)
      mine = h @ self.state_kernel + self.state_bias[None]  # [B, 3D]
      # Gate order and the reset after the product are torch's nn.GRU.
      xr, xz, xn = jnp.split(gates, 3, axis=-1)
      hr, hz, hn = jnp.split(mine, 3, axis=-1)
      update = jax.nn.sigmoid(xz + hz)
      new = jnp.tanh(xn + jax.nn.sigmoid(xr + hr) * hn)
      h = jnp.where(read[:, None], (1.0 - update) * new + update * h, h)
      return h, h

    empty = jnp.zeros((tokens.shape[0], self.spec.hidden_size), x.dtype)
    over_time = (inputs.swapaxes(0, 1), start.T, live.T)
    final, states = jax.lax.scan(step, empty, over_time)
    return final, states.swapaxes(0, 1)

  def _finish(self, states: jax.Array) -> jax.Array:
    return self.out(states) if self.spec.family == "s3rec" else states

  def __call__(
    self,
    tokens: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    noise: jax.Array | None,
  ) -> jax.Array:
    """Returns the state after every position; see `SasRec.__call__`."""
    del positions  # Order is what recurrence knows.
    before = jnp.pad(segments, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    start = segments != before
    _, states = self._run(tokens, start, segments >= 0, noise)
    return self._finish(states)

  def last(
    self, tokens: jax.Array, length: jax.Array, noise: jax.Array | None
  ) -> jax.Array:
    """Returns the state after the last position; see `SasRec.last`."""
    order = jnp.arange(tokens.shape[1])
    live = order[None, :] < jnp.maximum(length, 1)[:, None]
    start = jnp.broadcast_to((order == 0)[None], live.shape)
    final, _ = self._run(tokens, start, live, noise)
    return self._finish(final)
