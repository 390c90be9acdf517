"""Objectives that tie the examples of a step to each other.

With negatives from the batch, an example's loss depends on all examples of
the optimizer step, wherever they are: in other micro-batches, on other
devices, in other processes. So a step runs its texts twice (as Gao et al. do,
"Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
arXiv 2101.06983):

  pool     every micro-batch, without gradients, adds vectors to a table that
           is whole on every device
  couple   the table -> its loss, and the gradient by each vector
  (every micro-batch then runs as ever; `pull` hands its states the gradients)

Dropout draws the same masks both times. The sums are those of one batch of
everything, whatever the number and shape of micro-batches and mesh.

Letters: P vectors of a step, R rows, T positions, D width.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp

from bigrec_jax.data.text import pipeline, source, tokenization
from bigrec_jax.training import loss, objective as objective_lib

PULL = "pull"  # Among the arrays of a batch: float32 [P, D].


class Pools(flax.struct.PyTreeNode):
  """The vectors of a step, as far as its micro-batches were read.

  Attributes:
    sums: float32 [P, D], sums of states.
    counts: int32 [P], of how many tokens.
    groups: int32 [P], as the rows say (data/text/packing.py).
    labels: int32 scalar, labels of the texts.
    micro: int32 scalar, number of micro-batches.
  """

  sums: jax.Array
  counts: jax.Array
  groups: jax.Array
  labels: jax.Array
  micro: jax.Array

  def add(
    self,
    hidden: jax.Array,
    batch: objective_lib.Batch,
    labels: jax.Array,
  ) -> "Pools":
    """Returns the pools with one more micro-batch.

    Args:
      hidden: [R, T, D], its states.
      batch: `pools` and `groups`, int32 [R, T].
      labels: int32 scalar, how many labels it has.
    """
    places, size = _places(batch), len(self.counts)
    states = hidden.astype(jnp.float32).reshape(-1, hidden.shape[-1])
    ones = jnp.where(places < size, 1, 0)
    groups = batch["groups"].reshape(-1)
    sums = jnp.zeros_like(self.sums).at[places].add(states, mode="drop")
    counts = jnp.zeros_like(self.counts).at[places].add(ones, mode="drop")
    named = jnp.zeros_like(self.groups).at[places].max(groups, mode="drop")
    return Pools(
      self.sums + sums,
      self.counts + counts,
      jnp.maximum(self.groups, named),
      self.labels + labels,
      self.micro + 1,
    )

  @property
  def vectors(self) -> jax.Array:
    """Mean states, float32 [P, D]; 0 where there is none."""
    return self.sums / self._divisors[:, None]

  @property
  def present(self) -> jax.Array:
    """Which vectors there are, bool [P]."""
    return self.counts > 0

  @property
  def _divisors(self) -> jax.Array:
    return jnp.maximum(self.counts, 1).astype(jnp.float32)

  def by_token(self, by_vector: jax.Array) -> jax.Array:
    """Maps gradients [P, D] by vectors to those by each of their tokens."""
    return by_vector / self._divisors[:, None]


def _places(batch: objective_lib.Batch) -> jax.Array:
  """Returns the place of each token's pool, int32 [R * T]; beyond all, none."""
  pools = batch["pools"].reshape(-1)
  return jnp.where(pools > 0, pools - 1, jnp.iinfo(jnp.int32).max)


def empty(size: int, width: int) -> Pools:
  """Returns the pools before the first micro-batch.

  Args:
    size: P.
    width: D.
  """
  none = jnp.zeros((), jnp.int32)
  counts = jnp.zeros((size,), jnp.int32)
  sums = jnp.zeros((size, width), jnp.float32)
  return Pools(sums, counts, counts, none, none)


def pull(hidden: jax.Array, batch: objective_lib.Batch) -> jax.Array:
  """Returns 0, whose gradient by the states is what the vectors' loss wants.

  Args:
    hidden: [R, T, D] states of a micro-batch.
    batch: `pools`, int32 [R, T], and PULL, the gradient of the loss by every
      token of each pool.
  """
  by_pool = batch[PULL]
  places = jnp.minimum(_places(batch), len(by_pool) - 1)
  wanted = by_pool[places].reshape(hidden.shape)
  wanted = jnp.where(batch["pools"][:, :, None] > 0, wanted, 0.0)
  total = jnp.sum(hidden.astype(jnp.float32) * jax.lax.stop_gradient(wanted))
  return total - jax.lax.stop_gradient(total)


def count_labels(batch: objective_lib.Batch) -> jax.Array:
  """Returns how many labels the rows of a micro-batch have."""
  rows = batch["tokens"], batch["segment_ids"], batch["loss_mask"]
  return jnp.sum(loss.next_token_targets(*rows)[1], dtype=jnp.int32)


@runtime_checkable
class Coupled(objective_lib.Objective, Protocol):
  """An objective with a part that needs vectors of the whole step at once.

  It is called for each micro-batch as any objective is, and adds `pull` to its
  loss where PULL is in the batch; it isn't in evaluations, which have no
  step. Its counts are the labels of the texts.
  """

  @property
  def num_pools(self) -> int:
    """P, the most vectors that a step has."""
    ...

  def views(
    self,
    train: source.TextSource,
    tokenizer: tokenization.Tokenizer,
    max_length: int,
    seed: int,
  ) -> pipeline.Views:
    """Returns what names the vectors of a step, and adds texts to it.

    Args:
      train: the samples.
      tokenizer: of the base.
      max_length: of a text in tokens.
      seed: of what is drawn for it.

    Raises:
      TypeError: the samples aren't of the kind that it needs.
    """
    ...

  def couple(
    self, vectors: jax.Array, present: jax.Array, groups: jax.Array
  ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    """Returns the loss of a step's vectors, and extras, float32 scalars.

    Both are means over the step, as the loss of its texts is one over labels.

    Args:
      vectors: float32 [P, D].
      present: bool [P].
      groups: int32 [P].
    """
    ...
