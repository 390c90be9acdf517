"""The shape of a CF network, fixed before anything is compiled."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
  """What a network is; hashable, so that it can be a static argument.

  Attributes:
    network: gru4rec | caser | sasrec.
    family: dros | s3rec, whose code it follows.
    num_items: I; also the number of the padding item.
    rows: rows of the item tables, at least I + 1; more so that they divide
      over the mesh. Rows past I never score.
    hidden_size: D.
    num_layers: blocks of sasrec.
    num_heads: attention heads of sasrec; divides D.
    max_length: L, most items of a history.
    dropout: rate while training.
  """

  network: str
  family: str
  num_items: int
  rows: int
  hidden_size: int
  num_layers: int
  num_heads: int
  max_length: int
  dropout: float

  @property
  def per_position(self) -> bool:
    """Whether training predicts after every position, or the last only."""
    return self.family == "s3rec" and self.network != "caser"

  @property
  def tied(self) -> bool:
    """Whether items are scored with their input embedding."""
    return self.family == "s3rec"

  def positions(self, length: jax.Array, width: int) -> jax.Array:
    """Returns the position numbers of right-padded rows, [B, T] int32.

    dros counts from the oldest item, s3rec so that the newest is L - 1.
    """
    order = jnp.arange(width, dtype=jnp.int32)[None]
    if self.family == "dros":
      return jnp.broadcast_to(order, (length.shape[0], width))
    shift = self.max_length - jnp.maximum(length, 1)
    return jnp.minimum(order + shift[:, None], self.max_length - 1)
