"""Training data on the mesh, the plan of each epoch and its compiled steps."""

import functools
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from bigrec_jax.cf import chains as packing, losses, networks, steps
from bigrec_jax.cf.rows import Rows
from bigrec_jax.devices import noise as noise_lib, sharding

# Packed rows are compiled for in multiples of this.
_ROW_UNIT = 2


class CfTrainer:
  """Holds the data on the mesh and the compiled epoch.

  Attributes:
    recipe: see `steps.Recipe`.
    mesh: where it runs.
    runs: the S runs.
    packed_rows: R of the compiled program, where rows are packed. A part of
      the state: dropout draws depend on it.
  """

  def __init__(
    self,
    recipe: steps.Recipe,
    rows: Rows,
    counts: np.ndarray,
    runs: Sequence[steps.Trial],
    mesh: Mesh,
  ):
    """Puts the data on the mesh; compiles nothing yet.

    Args:
      recipe: see `steps.Recipe`.
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
      steps.Data(
        items=items.astype(np.int32),
        length=rows.length,
        first=rows.first,
        proposal=losses.make_proposal(counts, recipe.negative_power),
        propensity=losses.propensity(counts),
      ),
    )
    seeds, *rates = (np.asarray(x) for x in zip(*self.runs, strict=True))
    self._runs = steps.Trials(
      *sharding.put_replicated(
        mesh, (seeds.astype(np.uint32), *(x.astype(np.float32) for x in rates))
      )
    )

  def init(self) -> steps.State:
    """Returns the state before the first epoch."""
    each = [networks.init(self.recipe.network, r.seed) for r in self.runs]
    params = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    shardings = networks.shardings(params, self.mesh, leading=1)
    return _initial(jax.tree.map(_put, params, shardings), self.mesh)

  def abstract(self) -> steps.State:
    """Returns shapes, types and shardings of the state, to restore into."""
    return abstract_state(self.recipe, len(self.runs), self.mesh)

  @property
  def num_programs(self) -> int:
    """How many shapes the epoch was compiled for in this process."""
    return len(self._shapes)

  def run_epoch(self, state: steps.State) -> tuple[steps.State, jax.Array]:
    """Trains one epoch. The given state is donated.

    Returns:
      (state, mean loss of each run [S]).
    """
    plan = self._plan(state.epoch)
    self._shapes.add(plan.shape)
    return steps.run_epoch(
      state,
      self._runs,
      plan,
      self._data,
      recipe=self.recipe,
      mesh=self.mesh,
    )

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


def abstract_state(recipe: steps.Recipe, runs: int, mesh: Mesh) -> steps.State:
  """Returns shapes, types and shardings of the state of some runs."""
  params = networks.abstract(recipe.network)
  shapes = jax.eval_shape(
    steps.initial,
    jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((runs, *x.shape), x.dtype), params
    ),
  )
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    networks.shardings(shapes, mesh, leading=1),
  )


def _put(array: np.ndarray, sharding_: jax.sharding.Sharding) -> jax.Array:
  return jax.make_array_from_callback(
    array.shape, sharding_, lambda index: array[index]
  )


@functools.partial(jax.jit, static_argnums=1)
def _initial(params: networks.Params, mesh: Mesh) -> steps.State:
  return steps.fix_shardings(steps.initial(params), mesh)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _shuffled_plan(
  seeds: jax.Array, epoch: jax.Array, number: int, batch_size: int
) -> jax.Array:
  return jax.vmap(lambda noise: packing.shuffled(noise, number, batch_size))(
    _plan_noise(seeds, epoch)
  )


@functools.partial(jax.jit, static_argnums=(3, 4))
def _packed_plan(
  seeds: jax.Array,
  epoch: jax.Array,
  length: jax.Array,
  batch_size: int,
  width: int,
) -> tuple[jax.Array, jax.Array]:
  def one(noise):
    return packing.packed(noise, length, batch_size=batch_size, width=width)

  plan, needed = jax.vmap(one)(_plan_noise(seeds, epoch))
  return plan, needed.max()


def _plan_noise(seeds: jax.Array, epoch: jax.Array) -> jax.Array:
  """Returns seeds that no step has, [S]."""
  return noise_lib.fold(steps.epoch_noise(seeds, epoch), 2**32 - 1)
