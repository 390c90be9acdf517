"""One training step of a CF network, and an epoch of them as one program.

Trials (seeds, grid points) are stacked on the first axis of everything that
differs between them and mapped with `vmap`: three seeds are one program too.
Draws depend on (seed, epoch, step) only: a resumed run takes the steps that
the uninterrupted one would have, and so does any mesh.

Letters: S runs, N training rows, B rows of a batch, R packed rows, L
positions, I items.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from bigrec_jax.cf import losses, networks
from bigrec_jax.cf.spec import NetworkSpec
from bigrec_jax.devices import noise as noise_lib, sharding

Tree = Any
Array = jax.Array | np.ndarray


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What is compiled: common to all runs of a program; hashable.

  Attributes:
    network: its shape.
    loss: what is minimised.
    batch_size: B, sequences or windows of a step.
    negative_power: see `losses.make_proposal`.
  """

  network: NetworkSpec
  loss: losses.LossSpec
  batch_size: int
  negative_power: float


class Trial(NamedTuple):
  """What may differ between the runs of a program: a seed or a grid point.

  Attributes:
    seed: of initialisation, order, dropout and negatives.
    learning_rate: of Adam (b1 .9, b2 .999, eps 1e-8).
    weight_decay: L2 added to the gradient of every parameter, as torch's Adam.
    dro_alpha: weight of the DRO term.
  """

  seed: int
  learning_rate: float
  weight_decay: float
  dro_alpha: float


class Trials(NamedTuple):
  """S trials on the devices, or inside `vmap` one; fields as `Trial`."""

  seed: jax.Array
  learning_rate: jax.Array
  weight_decay: jax.Array
  dro_alpha: jax.Array


class Data(flax.struct.PyTreeNode):
  """Training rows on every device.

  Attributes:
    items: [N, L + 1] int32, padded with I.
    length: [N] int32.
    first: [N] int32, see `Rows`.
    proposal: of negatives.
    propensity: [I] float32, of the DRO term.
  """

  items: Array
  length: Array
  first: Array
  proposal: losses.Proposal
  propensity: Array


class State(flax.struct.PyTreeNode):
  """What training changes; every leaf leads with S but `epoch`.

  Attributes:
    params: of the latest epoch.
    moments: Adam's.
    best_params: of the best epoch.
    best_score: [S] float32, valid NDCG there; -1 before the first.
    best_epoch: [S] int32, from 1; 0 before the first.
    epoch: scalar int32, epochs done.
  """

  params: Tree
  moments: Tree
  best_params: Tree
  best_score: jax.Array
  best_epoch: jax.Array
  epoch: jax.Array


def _forbidden(recipe: Recipe, items: jax.Array, target: jax.Array):
  """Returns what may not be drawn as a negative, [..., F].

  dros: the target. s3rec: all of the row, inputs and targets.
  """
  return (
    target[..., None] if recipe.network.family == "dros" else items
  ).astype(jnp.int32)


def _windows(recipe: Recipe, data: Data, rows: jax.Array, mesh: Mesh):
  """Gathers a batch of windows; rows [B], -1 = none."""
  items = sharding.constrain(data.items[rows], mesh, ("batch", "length"))
  length = jnp.where(rows >= 0, data.length[rows], 0)
  target = jnp.take_along_axis(items, length[:, None], axis=1)[:, 0]
  order = jnp.arange(items.shape[1] - 1)
  tokens = jnp.where(
    order[None] < length[:, None], items[:, :-1], recipe.network.num_items
  )
  return tokens, length, target, _forbidden(recipe, items, target)


def _chains(recipe: Recipe, data: Data, source: jax.Array, mesh: Mesh):
  """Gathers packed sequences; source [R, L] of `packing.packed`."""
  source = sharding.constrain(source, mesh, ("batch", "length"))
  spec = recipe.network
  width = spec.max_length
  live = source >= 0
  row, place = source // width, source % width
  tokens = jnp.where(live, data.items[row, place], spec.num_items)
  target = jnp.where(live, data.items[row, place + 1], 0)
  shift = 0 if spec.family == "dros" else width - data.length[row]
  positions = jnp.where(live, place + shift, 0)
  segments = jnp.where(live, row, -1)
  both = jnp.concatenate([tokens, target], axis=1)  # [R, 2L]
  number = jnp.concatenate([segments, segments], axis=1)
  same = segments[:, :, None] == number[:, None, :]  # [R, L, 2L]
  whole = jnp.where(same, both[:, None, :], -1)
  counts = live & (place >= data.first[row])
  inputs = (tokens, positions, segments)
  return inputs, target, _forbidden(recipe, whole, target), counts


def _mean_loss(
  params: Tree,
  run: Trials,
  recipe: Recipe,
  data: Data,
  plan: jax.Array,
  noise: jax.Array,
  mesh: Mesh,
) -> jax.Array:
  """Returns the mean loss over the real predictions of one step."""
  dropout, negatives = noise_lib.fold(noise, 1), noise_lib.fold(noise, 2)
  if recipe.network.per_position:
    (tokens, positions, segments), target, forbidden, counts = _chains(
      recipe, data, plan, mesh
    )
    states = networks.all_states(
      recipe.network, params, tokens, positions, segments, dropout
    )
    states = states.reshape(-1, states.shape[-1])
    target = target.reshape(-1)
    forbidden = forbidden.reshape(-1, forbidden.shape[-1])
    weight = counts.reshape(-1).astype(jnp.float32)
  else:
    tokens, length, target, forbidden = _windows(recipe, data, plan, mesh)
    weight = (plan >= 0).astype(jnp.float32)
    states = networks.last_states(
      recipe.network, params, tokens, length, dropout
    )
  weight /= jnp.maximum(weight.sum(), 1.0)
  return losses.loss(
    recipe.loss,
    networks.head(recipe.network, params),
    losses.Predictions(states, target, forbidden, weight),
    data.proposal,
    jnp.asarray(data.propensity),
    run.dro_alpha,
    negatives,
    mesh,
  )


def _adam() -> optax.GradientTransformation:
  return optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)


def _epoch_of_one_run(
  params: Tree,
  moments: Tree,
  plan: jax.Array,
  noise: jax.Array,
  run: Trials,
  data: Data,
  recipe: Recipe,
  mesh: Mesh,
) -> tuple[Tree, Tree, jax.Array]:
  """Takes every step of `plan`; returns (params, moments, mean loss)."""

  def step(carry: tuple[Tree, Tree], now: Any):
    params, moments = carry
    number, batch = now
    step_noise = noise_lib.fold(noise, number)
    loss, grads = jax.value_and_grad(_mean_loss)(
      params, run, recipe, data, batch, step_noise, mesh
    )
    grads = jax.tree.map(lambda g, p: g + run.weight_decay * p, grads, params)
    # optax raises a float to the power of an int32 count.
    with jax.numpy_dtype_promotion("standard"):
      updates, moments = _adam().update(grads, moments)
    params = jax.tree.map(
      lambda p, u: p - run.learning_rate * u, params, updates
    )
    return (params, moments), loss

  numbers = jnp.arange(plan.shape[0], dtype=jnp.uint32)
  (params, moments), loss = jax.lax.scan(
    step, (params, moments), (numbers, plan)
  )
  return params, moments, loss.mean()


def epoch_noise(seeds: jax.Array, epoch: jax.Array) -> jax.Array:
  """Returns the noise seed of each run in an epoch, [S] uint32."""
  return noise_lib.fold(noise_lib.fold(seeds, 0), epoch.astype(jnp.uint32))


def initial(params: Tree) -> State:
  """Returns the state before the first epoch; parameters' leaves [S, ...]."""
  runs = jax.tree.leaves(params)[0].shape[:1]
  return State(
    params=params,
    moments=jax.vmap(_adam().init)(params),
    best_params=params,
    best_score=jnp.full(runs, -1.0, jnp.float32),
    best_epoch=jnp.zeros(runs, jnp.int32),
    epoch=jnp.zeros((), jnp.int32),
  )


def fix_shardings(state: State, mesh: Mesh) -> State:
  """Splits the rows of item tables and their moments; inside jit."""
  return jax.lax.with_sharding_constraint(
    state, networks.shardings(state, mesh, leading=1)
  )


@functools.partial(
  jax.jit, donate_argnums=0, static_argnames=("recipe", "mesh")
)
def run_epoch(
  state: State,
  runs: Trials,
  plan: jax.Array,
  data: Data,
  *,
  recipe: Recipe,
  mesh: Mesh,
) -> tuple[State, jax.Array]:
  """Trains one epoch. The given state is donated.

  Args:
    state: of all runs.
    runs: fields [S].
    plan: [S, steps, B] rows of windows, or [S, steps, R, L] packed chains.
    data: training rows.
    recipe: what is compiled.
    mesh: where it runs.

  Returns:
    (state, mean loss of each run [S]).
  """
  run = functools.partial(
    _epoch_of_one_run, data=data, recipe=recipe, mesh=mesh
  )
  params, moments, loss = jax.vmap(run)(
    state.params, state.moments, plan, epoch_noise(runs.seed, state.epoch), runs
  )
  state = dataclasses.replace(
    state, params=params, moments=moments, epoch=state.epoch + 1
  )
  return fix_shardings(state, mesh), loss


@functools.partial(jax.jit, donate_argnums=0, static_argnames="patience")
def keep_best(state: State, score: jax.Array, patience: int) -> State:
  """Keeps the parameters of each run's best epoch so far.

  A run whose patience is spent keeps what it has, as if it trained alone.

  Args:
    state: after an epoch.
    score: [S] float32, valid NDCG of that epoch.
    patience: epochs without a better score; 0 = never stop.
  """
  better = (score > state.best_score) & ~spent(state, 1, patience)

  def choose(new, old):
    pick = better.reshape((-1,) + (1,) * (new.ndim - 1))
    return jnp.where(pick, new, old)

  return dataclasses.replace(
    state,
    best_params=jax.tree.map(choose, state.params, state.best_params),
    best_score=choose(score, state.best_score),
    best_epoch=jnp.where(better, state.epoch, state.best_epoch),
  )


def spent(state: State, running: int, patience: int) -> jax.Array:
  """Returns [S] bool: the patience of a run is spent.

  Args:
    state: see `State`.
    running: 1 = `state.epoch` isn't judged yet.
    patience: see `keep_best`.
  """
  waited = state.epoch - running - state.best_epoch
  return (waited >= patience) & (patience > 0)
