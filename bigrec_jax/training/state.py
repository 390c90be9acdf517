"""What training changes: the adapter, its moments, and the running sums."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from bigrec_jax.training import optimizer

Tree = Any


class TrainState(flax.struct.PyTreeNode):
  """Everything an optimizer step changes.

  Attributes:
    step: int32 scalar, optimizer steps taken.
    params: the trained parameters: the adapter, maybe with weights of a
      task's own (own_weights.Trained), or the whole small base while
      pretraining.
    moments: AdamW's moments, shaped as `params`.
  """

  step: jax.Array
  params: Tree
  moments: optimizer.AdamState


class AdaptiveState(TrainState):
  """The state where the objective has numbers that change.

  Attributes:
    told: float32 scalars by name, what the next step is told.
  """

  told: dict[str, jax.Array] = flax.struct.field(default_factory=dict)


class Sums(flax.struct.PyTreeNode):
  """What the micro-batches of one optimizer step add up.

  Attributes:
    grads: gradient of the summed loss, float32, shaped as the parameters.
    loss: float32 scalar, summed loss.
    tokens: int32 scalar, number of labels.
    micro: int32 scalar, number of micro-batches so far.
    extras: float32 scalars, the objective's named extras, summed.
  """

  grads: Tree
  loss: jax.Array
  tokens: jax.Array
  micro: jax.Array
  extras: dict[str, jax.Array] = flax.struct.field(default_factory=dict)

  def add(
    self,
    grads: Tree,
    loss: jax.Array,
    tokens: jax.Array,
    extras: Mapping[str, jax.Array] | None = None,
  ) -> "Sums":
    """Returns the sums with one more part; gradients of any float dtype.

    Extras that the part lacks (those of the header) stay as they are.
    """
    with jax.named_scope("accumulate"):
      more = extras or {}
      return self.replace(
        grads=add_float32(self.grads, grads),
        loss=self.loss + loss,
        tokens=self.tokens + tokens,
        extras={
          name: total + more[name] if name in more else total
          for name, total in self.extras.items()
        },
      )


def add_float32(total: Tree, part: Tree) -> Tree:
  """Adds a tree of any float dtype to one of float32."""
  return jax.tree.map(lambda a, b: a + b.astype(jnp.float32), total, part)


def init_state(
  params: Tree,
  adamw: optimizer.AdamW,
  told: Mapping[str, float] | None = None,
) -> TrainState:
  """Returns the state before the first step.

  Args:
    params: the trained parameters.
    adamw: the optimizer.
    told: the numbers of an adaptive objective; None = it has none.
  """
  step, moments = jnp.zeros((), jnp.int32), adamw.init(params)
  if told is None:
    return TrainState(step=step, params=params, moments=moments)
  numbers = {name: jnp.float32(value) for name, value in told.items()}
  return AdaptiveState(step=step, params=params, moments=moments, told=numbers)


def told(state: TrainState) -> Mapping[str, jax.Array]:
  """Returns what a step's objective is told."""
  return state.told if isinstance(state, AdaptiveState) else {}


def zero_sums(params: Tree, extras: Sequence[str] = ()) -> Sums:
  """Returns the sums before the first micro-batch.

  Args:
    params: the trained parameters.
    extras: names of the objective's extras.
  """
  return Sums(
    grads=jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), params),
    loss=jnp.zeros((), jnp.float32),
    tokens=jnp.zeros((), jnp.int32),
    micro=jnp.zeros((), jnp.int32),
    extras={name: jnp.zeros((), jnp.float32) for name in extras},
  )
