"""AdamW, clipping and learning-rate schedules, as the reference trains.

The reference is Hugging Face Trainer with torch's AdamW and its defaults.
Written out rather than composed from optax for two digits that
matter when curves are compared: torch clips by max_norm / (norm + 1e-6), and
takes 1 - beta^t in float64, where float32 powers are off by 1e-5 at t = 1.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from bigrec_jax.models import own_weights

Tree = Any  # A tree of parameters; arrays at its leaves.


def _no_steps() -> jax.Array:
  return jnp.zeros((), jnp.int32)


class AdamState(flax.struct.PyTreeNode):
  """First and second moments, float32, shaped as the parameters."""

  mu: Tree
  nu: Tree


class OwnAdamState(AdamState):
  """Moments where a task has weights of its own (models/own_weights.py).

  Attributes:
    own_steps: int32 scalar, steps in which those had a gradient.
  """

  own_steps: jax.Array = flax.struct.field(default_factory=_no_steps)


@dataclasses.dataclass(frozen=True)
class AdamW:
  """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

  Attributes:
    weight_decay: taken from each parameter as learning_rate * weight_decay.
    max_grad_norm: gradients are scaled down to this global norm.
    beta1: decay of the first moment.
    beta2: decay of the second moment.
    epsilon: added to the root of the second moment.
    own_l2: added to the gradients of a task's own weights times these, as the
      weight decay of torch's Adam is.
  """

  weight_decay: float
  max_grad_norm: float
  beta1: float = 0.9
  beta2: float = 0.999
  epsilon: float = 1e-8
  own_l2: float = 0.0

  def init(self, params: Tree) -> AdamState:
    """Returns zero moments."""

    def zeros(leaf):
      return jnp.zeros(leaf.shape, jnp.float32)

    mu, nu = jax.tree.map(zeros, params), jax.tree.map(zeros, params)
    if isinstance(params, own_weights.Trained):
      return OwnAdamState(mu=mu, nu=nu, own_steps=_no_steps())
    return AdamState(mu=mu, nu=nu)

  def update(
    self,
    params: Tree,
    grads: Tree,
    state: AdamState,
    step: jax.Array,
    learning_rate: jax.Array,
  ) -> tuple[Tree, AdamState, jax.Array]:
    """Takes one step.

    A task's own weights that no text of the step read have gradients of 0.
    They stay as they are, moments and all, and count no step, as torch does
    with parameters that have no gradient.

    Args:
      params: tree of arrays.
      grads: tree of float32 arrays, the mean over the global batch.
      state: moments.
      step: int32 scalar, number of steps taken before this one.
      learning_rate: float32 scalar for this step.

    Returns:
      New parameters, new moments, and the gradient norm before clipping.
    """
    norm = global_norm(grads)
    clip = jnp.minimum(self.max_grad_norm / (norm + 1e-6), 1.0)
    if not isinstance(params, own_weights.Trained):
      params, mu, nu = self._moved(
        params, grads, state.mu, state.nu, step + 1, learning_rate, clip
      )
      return params, AdamState(mu=mu, nu=nu), norm
    lora, mu, nu = self._moved(
      params.lora,
      grads.lora,
      state.mu.lora,
      state.nu.lora,
      step + 1,
      learning_rate,
      clip,
    )
    (own, own_mu, own_nu), steps = self._own_moved(
      params.own, grads.own, state, learning_rate, clip
    )
    state = OwnAdamState(
      mu=own_weights.Trained(mu, own_mu),
      nu=own_weights.Trained(nu, own_nu),
      own_steps=steps,
    )
    return own_weights.Trained(lora, own), state, norm

  def _own_moved(
    self,
    own: Tree,
    grads: Tree,
    state: AdamState,
    learning_rate: jax.Array,
    clip: jax.Array,
  ) -> tuple[tuple[Tree, Tree, Tree], jax.Array]:
    """Returns a task's own weights with their moments, and their steps."""
    if not isinstance(state, OwnAdamState):
      raise ValueError(f"{type(state)=}, OwnAdamState expected")
    were = own, state.mu.own, state.nu.own
    touched = functools.reduce(
      jnp.logical_or, [jnp.any(g != 0) for g in jax.tree.leaves(grads)]
    )
    steps = state.own_steps + touched.astype(jnp.int32)
    count = jnp.maximum(steps, 1)
    found = self._moved(
      own, grads, *were[1:], count, learning_rate, clip, self.own_l2
    )
    kept = jax.tree.map(
      lambda new, old: jnp.where(touched, new, old), found, were
    )
    return kept, steps

  def _moved(
    self,
    params: Tree,
    grads: Tree,
    mu: Tree,
    nu: Tree,
    steps: jax.Array,
    learning_rate: jax.Array,
    clip: jax.Array,
    l2: float = 0.0,
  ) -> tuple[Tree, Tree, Tree]:
    """Returns parameters and moments after step number `steps`."""
    count = steps.astype(jnp.float32)
    # 1 - beta^t through expm1: exact also for t = 1.
    correction1 = -jnp.expm1(count * math.log(self.beta1))
    correction2 = -jnp.expm1(count * math.log(self.beta2))

    def moments(grad, mu, nu, param):
      grad = grad * clip
      if l2:
        grad = grad + l2 * param.astype(jnp.float32)
      mu = self.beta1 * mu + (1 - self.beta1) * grad
      nu = self.beta2 * nu + (1 - self.beta2) * jnp.square(grad)
      return mu, nu

    def move(param, mu, nu):
      value = param.astype(jnp.float32)
      value = value * (1 - learning_rate * self.weight_decay)
      root = jnp.sqrt(nu) / jnp.sqrt(correction2) + self.epsilon
      value = value - learning_rate / correction1 * mu / root
      return value.astype(param.dtype)

    pairs = jax.tree.map(moments, grads, mu, nu, params)
    mu, nu = jax.tree.transpose(
      jax.tree.structure(grads), jax.tree.structure((0, 0)), pairs
    )
    params = jax.tree.map(move, params, mu, nu)
    return params, mu, nu


def global_norm(tree: Tree) -> jax.Array:
  """Returns the L2 norm of all leaves together, a float32 scalar."""
  squares = [
    jnp.sum(jnp.square(leaf.astype(jnp.float32)))
    for leaf in jax.tree.leaves(tree)
  ]
  return jnp.sqrt(sum(squares, start=jnp.zeros((), jnp.float32)))


def linear_schedule(
  step: int, peak: float, warmup_steps: int, total_steps: int
) -> float:
  """Linear warm-up from 0, then linear decay to 0 at the last planned step.

  Computed on the host in float64, as the reference does, so that the logged
  rate is equal digit by digit.

  Args:
    step: number of optimizer steps taken before this one.
    peak: learning rate at the end of the warm-up.
    warmup_steps: length of the warm-up.
    total_steps: planned steps, epochs times steps per epoch, whether or not
      early stopping cuts them short.

  Returns:
    The learning rate of this step; 0 for the first when there is a warm-up.
  """
  if step < warmup_steps:
    return peak * (step / max(1, warmup_steps))
  left = (total_steps - step) / max(1, total_steps - warmup_steps)
  return peak * max(0.0, left)


def cosine_schedule(
  step: int, peak: float, warmup_steps: int, total_steps: int
) -> float:
  """Linear warm-up, then half a cosine to a tenth of the peak.

  Used to pretrain the demo's small base; arguments as `linear_schedule`,
  except that the first step already moves.
  """
  if step < warmup_steps:
    return peak * (step + 1) / warmup_steps
  done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
  return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * min(done, 1.0))))


def hundredth_schedule(
  step: int, peak: float, warmup_steps: int, total_steps: int
) -> float:
  """Linear warm-up from a hundredth, then half a cosine to a hundredth.

  LLaRA's (optims.py of its repository): the cosine counts from step 0, so the
  rate falls a little where the warm-up ends. Arguments as `linear_schedule`.
  """
  least = peak / 100
  if step < warmup_steps:
    return min(peak, least + (peak - least) * step / max(1, warmup_steps))
  done = step / max(1, total_steps)
  return (peak - least) * 0.5 * (1 + math.cos(math.pi * done)) + least


# By `train.schedule`.
SCHEDULES = {"linear": linear_schedule, "cosine": hundredth_schedule}
