"""Trains a CF network: an epoch is one compiled program on resident data.

Runs (seeds, grid points) are stacked on the first axis of everything that
differs between them and mapped with `vmap`: three seeds are one program too.
Draws depend on (seed, epoch, step) only: a resumed run takes the steps that
the uninterrupted one would have, and so does any mesh.

Letters: S runs, N training rows, B rows of a batch, R packed rows, L
positions, I items.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from bigrec_jax import sharding
from bigrec_jax.cf import losses, networks, packing
from bigrec_jax.cf.rows import Rows
from bigrec_jax.cf.spec import NetworkSpec

Tree = Any

# Packed rows are compiled for in multiples of this.
_ROW_UNIT = 2


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


class Run(NamedTuple):
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


@flax.struct.dataclass
class Data:
  """Training rows on every device.

  Attributes:
    items: [N, L + 1] int32, padded with I.
    length: [N] int32.
    first: [N] int32, see `Rows`.
    proposal: of negatives.
    propensity: [I] float32, of the DRO term.
  """

  items: jax.Array
  length: jax.Array
  first: jax.Array
  proposal: losses.Proposal
  propensity: jax.Array


@flax.struct.dataclass
class State:
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
  run: Run,
  recipe: Recipe,
  data: Data,
  plan: jax.Array,
  key: jax.Array,
  mesh: Mesh,
) -> jax.Array:
  """Returns the mean loss over the real predictions of one step."""
  dropout_key, negative_key = jax.random.split(key)
  if recipe.network.per_position:
    inputs, target, forbidden, counts = _chains(recipe, data, plan, mesh)
    states = networks.all_states(recipe.network, params, *inputs, dropout_key)
    states = states.reshape(-1, states.shape[-1])
    target = target.reshape(-1)
    forbidden = forbidden.reshape(-1, forbidden.shape[-1])
    weight = counts.reshape(-1).astype(jnp.float32)
  else:
    tokens, length, target, forbidden = _windows(recipe, data, plan, mesh)
    weight = (plan >= 0).astype(jnp.float32)
    states = networks.last_states(
      recipe.network, params, tokens, length, dropout_key
    )
  value = losses.loss(
    recipe.loss,
    networks.head(recipe.network, params),
    losses.Predictions(states, target, forbidden),
    data.proposal,
    data.propensity,
    run.dro_alpha,
    negative_key,
  )
  return (value * weight).sum() / jnp.maximum(weight.sum(), 1.0)


def _adam() -> optax.GradientTransformation:
  return optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)


def _epoch_of_one_run(
  params: Tree,
  moments: Tree,
  plan: jax.Array,
  key: jax.Array,
  run: Run,
  data: Data,
  recipe: Recipe,
  mesh: Mesh,
) -> tuple[Tree, Tree, jax.Array]:
  """Takes every step of `plan`; returns (params, moments, mean loss)."""

  def step(carry: tuple[Tree, Tree], now: Any):
    params, moments = carry
    number, batch = now
    step_key = jax.random.fold_in(key, number)
    loss, grads = jax.value_and_grad(_mean_loss)(
      params, run, recipe, data, batch, step_key, mesh
    )
    grads = jax.tree.map(lambda g, p: g + run.weight_decay * p, grads, params)
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


def _keys(seeds: jax.Array, epoch: jax.Array) -> jax.Array:
  """Returns the key of each run in an epoch, [S]."""
  return jax.vmap(lambda s: jax.random.fold_in(jax.random.key(s), epoch))(seeds)


class Trainer:
  """Holds the data on the mesh and the compiled epoch.

  Attributes:
    recipe: see `Recipe`.
    mesh: where it runs.
    runs: the S runs.
    packed_rows: R of the compiled program, where rows are packed. A part of
      the state: dropout draws depend on it.
  """

  def __init__(
    self,
    recipe: Recipe,
    rows: Rows,
    counts: np.ndarray,
    runs: Sequence[Run],
    mesh: Mesh,
  ):
    """Puts the data on the mesh; compiles nothing yet.

    Args:
      recipe: see `Recipe`.
      rows: windows, or chains where `recipe.network.per_position`.
      counts: [I] how often each item is a target in train.
      runs: the S runs.
      mesh: where to run.

    Raises:
      UserError: the mesh doesn't divide the batch.
    """
    sharding.check_batch(mesh, recipe.batch_size, "config.cf.batch_size")
    self.recipe, self.mesh = recipe, mesh
    self.runs = tuple(runs)
    self._shapes: set[tuple[int, ...]] = set()
    self.packed_rows = self._expected_rows(rows.length)
    spec = recipe.network
    items = np.where(rows.items >= 0, rows.items, spec.num_items)
    self._data = sharding.put_replicated(
      mesh,
      Data(
        items=items.astype(np.int32),
        length=rows.length,
        first=rows.first,
        proposal=losses.make_proposal(counts, recipe.negative_power),
        propensity=losses.propensity(counts),
      ),
    )
    stacked = Run(*(np.asarray(x) for x in zip(*self.runs, strict=True)))
    self._runs = sharding.put_replicated(
      mesh,
      Run(
        stacked.seed.astype(np.uint32),
        *(x.astype(np.float32) for x in stacked[1:]),
      ),
    )
    abstract = jax.eval_shape(self._init, self._runs.seed)
    self.shardings = networks.shardings(abstract, mesh, leading=1)
    self._epoch = jax.jit(
      self._run, donate_argnums=0, out_shardings=(self.shardings, None)
    )

  def init(self) -> State:
    """Returns the state before the first epoch."""
    return jax.jit(self._init, out_shardings=self.shardings)(self._runs.seed)

  def abstract(self) -> State:
    """Returns shapes, types and shardings of the state, to restore into."""
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      jax.eval_shape(self._init, self._runs.seed),
      self.shardings,
    )

  @property
  def num_programs(self) -> int:
    """How many shapes the epoch was compiled for in this process."""
    return len(self._shapes)

  def _init(self, seeds: jax.Array) -> State:
    def one(seed):
      return networks.init(self.recipe.network, jax.random.key(seed))

    params = jax.vmap(one)(seeds)
    return State(
      params=params,
      moments=jax.vmap(_adam().init)(params),
      best_params=params,
      best_score=jnp.full(seeds.shape, -1.0, jnp.float32),
      best_epoch=jnp.zeros(seeds.shape, jnp.int32),
      epoch=jnp.zeros((), jnp.int32),
    )

  def _run(
    self, state: State, runs: Run, plan: jax.Array, data: Data
  ) -> tuple[State, jax.Array]:
    run = functools.partial(
      _epoch_of_one_run, data=data, recipe=self.recipe, mesh=self.mesh
    )
    keys = _keys(runs.seed, state.epoch)
    params, moments, loss = jax.vmap(run)(
      state.params, state.moments, plan, keys, runs
    )
    epoch = state.epoch + 1
    return state.replace(params=params, moments=moments, epoch=epoch), loss

  def run_epoch(self, state: State) -> tuple[State, jax.Array]:
    """Trains one epoch. The given state is donated.

    Returns:
      (state, mean loss of each run [S]).
    """
    plan = self._plan(state.epoch)
    self._shapes.add(plan.shape)
    return self._epoch(state, self._runs, plan, self._data)

  def _plan(self, epoch: jax.Array) -> jax.Array:
    """Returns [S, steps, B], or [S, steps, R, L] where rows are packed."""
    if not self.recipe.network.per_position:
      return _shuffled_plan(
        self._runs.seed, epoch, len(self._data.length), self.recipe.batch_size
      )
    plan, needed = _packed_plan(
      self._runs.seed,
      epoch,
      self._data.length,
      self.recipe.batch_size,
      self.recipe.network.max_length,
    )
    if int(needed) > self.packed_rows:
      self.packed_rows = self._round_up(int(needed))
    return plan[:, :, : self.packed_rows]

  def _expected_rows(self, length: np.ndarray) -> int:
    """Returns R: room for a batch four standard deviations above the mean.

    It doesn't look at any draw, so that runs, epochs and resumed processes
    have the same R, but for a batch beyond that.
    """
    batch = self.recipe.batch_size
    positions = batch * length.mean() + 4 * math.sqrt(batch) * length.std()
    return self._round_up(positions / self.recipe.network.max_length + 1)

  def _round_up(self, rows: float) -> int:
    unit = math.lcm(_ROW_UNIT, sharding.batch_size_unit(self.mesh))
    return min(math.ceil(rows / unit) * unit, self.recipe.batch_size)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _shuffled_plan(
  seeds: jax.Array, epoch: jax.Array, number: int, batch_size: int
) -> jax.Array:
  def one(key):
    return packing.shuffled(_plan_key(key), number, batch_size)

  return jax.vmap(one)(_keys(seeds, epoch))


@functools.partial(jax.jit, static_argnums=(3, 4))
def _packed_plan(
  seeds: jax.Array,
  epoch: jax.Array,
  length: jax.Array,
  batch_size: int,
  width: int,
) -> tuple[jax.Array, jax.Array]:
  def one(key):
    return packing.packed(
      _plan_key(key), length, batch_size=batch_size, width=width
    )

  plan, needed = jax.vmap(one)(_keys(seeds, epoch))
  return plan, needed.max()


def _plan_key(key: jax.Array) -> jax.Array:
  """Returns a key that no step has."""
  return jax.random.fold_in(key, 2**32 - 1)


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

  return state.replace(
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
