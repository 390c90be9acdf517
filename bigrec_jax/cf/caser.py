"""Caser (Tang and Wang 2018): convolutions over the history as an image.

Horizontal filters of heights 2, 3 and 4 look for short sequences, one vertical
filter weighs the positions; no user embedding, as in YangZhengyi98/DROS.

`dros`   the 48 + D features meet an untied head.
`s3rec`  they are projected to D and meet the item table; the last item is
         always at the bottom of the image. The S3-Rec authors' own version
         isn't published; this one follows their protocol.

Letters: B rows, L positions of the image, D width, F filters of one height.
"""

import functools
import operator

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigrec_jax.cf import layers
from bigrec_jax.cf.spec import NetworkSpec

HEIGHTS = (2, 3, 4)
FILTERS = 16


def features(spec: NetworkSpec) -> int:
  """Returns how many features the convolutions give."""
  heights = [h for h in HEIGHTS if h <= spec.max_length]
  return FILTERS * len(heights) + spec.hidden_size


class Caser(nn.Module):
  """See the module docstring. It has no state per position, only the last."""

  spec: NetworkSpec

  @nn.compact
  def last(
    self, tokens: jax.Array, length: jax.Array, noise: jax.Array | None
  ) -> jax.Array:
    """Returns the state after the last position; see `SasRec.last`.

    Returns:
      [B, 48 + D] (dros) or [B, D] (s3rec), float32.
    """
    spec, width = self.spec, self.spec.hidden_size
    table = self.param(
      "items", layers.item_init(spec.family), (spec.rows, width)
    )
    tokens = self._frame(tokens, length)
    real = (tokens != spec.num_items)[..., None]
    image = jnp.where(real, table[tokens], 0.0)  # [B, L, D]
    found = self._horizontal(image)
    bias = nn.initializers.constant(0.1)
    scale = (2.0 / (2 * spec.max_length)) ** 0.5
    weights = self.param("vertical", layers.normal(scale), (spec.max_length, 1))
    offset = self.param("vertical_bias", bias, (1,))
    mixed = jnp.einsum("bld,l->bd", image, weights[:, 0]) + offset[None]
    x = jnp.concatenate([found, jax.nn.relu(mixed)], axis=-1)
    x = layers.Dropout(spec.dropout, name="dropout")(x, noise)
    if spec.family == "s3rec":
      x = layers.dense("s3rec", x.shape[-1], width, "out")(x)
    return x

  def _frame(self, tokens: jax.Array, length: jax.Array) -> jax.Array:
    """Returns [B, L]: the image's items, at its top or at its bottom."""
    spec = self.spec
    missing = spec.max_length - tokens.shape[1]
    tokens = jnp.pad(
      tokens, ((0, 0), (0, missing)), constant_values=spec.num_items
    )
    if spec.family == "dros":
      return tokens
    place = (
      jnp.arange(spec.max_length)[None] - (spec.max_length - length)[:, None]
    )
    moved = jnp.take_along_axis(tokens, jnp.maximum(place, 0), axis=1)
    return jnp.where(place >= 0, moved, spec.num_items)

  def _horizontal(self, image: jax.Array) -> jax.Array:
    """Returns the strongest answer of each filter, [B, F of each height].

    All rows of all filters meet the image in one product, [D, 9 F]: products
    with 16 columns each are slow, and would read the image nine times. (A
    convolution is faster still, but not in a loop on a CPU.)
    """
    length, width = self.spec.max_length, self.spec.hidden_size
    heights = [height for height in HEIGHTS if height <= length]
    if not heights:
      return image[:, 0, :0]
    kernels, biases = [], []
    for height in heights:
      # As torch counts the fans of a [F, 1, height, D] kernel.
      scale = (2.0 / (height * width * (1 + FILTERS))) ** 0.5
      shape = (height, width, FILTERS)
      name = f"horizontal_{height}"
      kernels.append(self.param(name, layers.normal(scale), shape))
      start = nn.initializers.constant(0.1)
      biases.append(self.param(f"{name}_bias", start, (FILTERS,)))
    rows = [row for kernel in kernels for row in kernel]
    answers = image @ jnp.concatenate(rows, axis=1)  # [B, L, 9 F]
    parts = iter(jnp.split(answers, len(rows), axis=2))
    best = []
    for height in heights:
      steps = length - height + 1
      total = functools.reduce(
        operator.add, (next(parts)[:, h : h + steps] for h in range(height))
      )
      best.append(total.max(axis=1))
    bias = jnp.concatenate(biases)
    return jax.nn.relu(jnp.concatenate(best, axis=1) + bias[None])
