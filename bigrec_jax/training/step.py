"""The compiled parts of training: accumulate, apply, evaluate.

An optimizer step is a host loop of `accumulate` over its micro-batches and one
`apply`; where examples share their beginning, that runs forward before the
loop and backward after it (header.py). Where the objective ties the examples
of a step to each other, all micro-batches run once before, without gradients
(coupled.py). Sums travel, not means: the gradient of
the summed loss is divided once by the labels of the whole step, so the result
is the token-weighted mean over the global batch whatever the number and shape
of the micro-batches.
Each micro-batch shape compiles once.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bigrec_jax.data.text import packing
from bigrec_jax.devices import executor as executor_lib, sharding
from bigrec_jax.models import LanguageModel, own_weights
from bigrec_jax.training import (
  coupled,
  header as header_lib,
  objective as objective_lib,
  optimizer,
  programs,
  state as state_lib,
)

Tree = Any


def adapter_variables(base: Tree, params: Tree) -> dict[str, Tree]:
  """Variables of the model where the adapter is trained and the base isn't."""
  if isinstance(base, objective_lib.Told):
    base = base.base
  return {"params": base, **own_weights.collections(params)}


def base_variables(base: None, params: Tree) -> dict[str, Tree]:
  """Variables of the model where the base itself is trained (pretraining)."""
  del base
  return {"params": params}


@dataclasses.dataclass(frozen=True)
class Coupling:
  """Compiled functions of an objective over whole steps (coupled.py).

  Attributes:
    empty: () -> Pools, on every device.
    pool: (pools, state, base, rows, header, mask) -> pools, header and mask
      None where rows hold whole texts. Donates `pools`.
    couple: (sums, pools) -> (sums, gradient by tokens). Donates `sums`.
  """

  empty: jax.stages.Wrapped
  pool: jax.stages.Wrapped
  couple: jax.stages.Wrapped


@dataclasses.dataclass(frozen=True)
class Steps:
  """Compiled functions of one training run.

  Attributes:
    prepare: base -> base, arranged as programs read it (`model.prepare`); the
      functions below take either.
    init: params -> (TrainState, Sums), placed as the parameters are.
    fork: (sums, header, number) -> (zero sums, header without gradients), for
      micro-batches from `number` on.
    join: (sums, header, sums, header) -> (sums, header). Donates the first
      two.
    open_header: (state, base, tokens) -> Header.
    accumulate: (sums, state, base, rows, header) -> (sums, header), header
      None where rows hold whole texts. Donates both.
    close_header: (sums, state, base, tokens, mask, header) -> sums. Donates
      `sums`.
    apply: (state, sums, learning_rate) -> (state, zero sums, metrics), with
      metrics {"loss", "grad_norm"} and the objective's extras, float32
      scalars. Donates state and sums.
    evaluate: (params, base, batch) -> (loss sum, label count).
    mesh: where all of them run.
    executor: of the micro-batches of a step.
    coupling: of an objective that needs a step as a whole, else None.
  """

  prepare: Callable[[Tree], Tree]
  init: jax.stages.Wrapped
  fork: jax.stages.Wrapped
  join: jax.stages.Wrapped
  open_header: jax.stages.Wrapped
  accumulate: jax.stages.Wrapped
  close_header: jax.stages.Wrapped
  apply: jax.stages.Wrapped
  evaluate: jax.stages.Wrapped
  mesh: Mesh
  executor: executor_lib.Executor
  coupling: Coupling | None = None

  def add_up(
    self,
    sums: state_lib.Sums,
    state: state_lib.TrainState,
    base: Tree,
    batches: Sequence[Mapping[str, np.ndarray]],
  ) -> state_lib.Sums:
    """Accumulates all micro-batches of one optimizer step.

    Where the executor runs programs side by side, these are the two halves of
    the step.

    Args:
      sums: of `init` or `apply`; donated.
      state: of the step.
      base: the frozen base, or None.
      batches: micro-batches on the host, this process's rows. The ones that
        have a header have the same.

    Returns:
      The sums, ready for `apply`.
    """
    opened: header_lib.Header | None = None
    shared: tuple[jax.Array, ...] = ()
    first = next((b for b in batches if packing.ROWLESS[0] in b), None)
    if first is not None:
      shared = tuple(
        sharding.put_replicated(self.mesh, first[name])
        for name in packing.ROWLESS
      )
      opened = self.open_header(state, base, shared[0])
    told: Mapping[str, jax.Array] = {}
    if self.coupling is not None:
      sums, told = self._couple(
        self.coupling, sums, state, base, batches, opened, shared
      )
    parts: list[programs.Part] = [(sums, opened)]
    halves = [batches]
    middle = _middle(batches)
    if middle and self.executor.width > 1:
      number = sharding.put_replicated(self.mesh, np.int32(middle))
      parts.append(self.fork(sums, opened, number))
      halves = [batches[:middle], batches[middle:]]
    team = self.executor.team()
    add = functools.partial(
      self._add_part, state, base, team, len(parts) > 1, told
    )
    jobs = [
      functools.partial(add, *each) for each in zip(parts, halves, strict=True)
    ]
    (sums, opened), *second = team.run(jobs)
    if second:
      sums, opened = self.join(sums, opened, *second[0])
    if opened is None:
      return sums
    return self.close_header(sums, state, base, *shared, opened)

  def _add_part(
    self,
    state: state_lib.TrainState,
    base: Tree,
    team: executor_lib.Team,
    waits: bool,
    told: Mapping[str, jax.Array],
    part: programs.Part,
    batches: Sequence[Mapping[str, np.ndarray]],
  ) -> programs.Part:
    """Adds micro-batches to what a thread has; `waits` for each of them.

    All of them are `told` the same.

    A thread alone doesn't wait: it runs ahead, to hand the device its next
    batch.
    """
    sums, opened = part
    for batch in batches:
      if team.stopped.is_set():
        break
      own = {k: v for k, v in batch.items() if k not in packing.ROWLESS}
      whole = len(own) == len(batch)
      rows = {**put_batch(self.mesh, own), **told}
      given = None if whole else opened
      with team.calling:
        sums, given = self.accumulate(sums, state, base, rows, given)
      opened = opened if whole else given
      if waits:
        jax.block_until_ready(sums.loss)
    return sums, opened

  def _couple(
    self,
    coupling: Coupling,
    sums: state_lib.Sums,
    state: state_lib.TrainState,
    base: Tree,
    batches: Sequence[Mapping[str, np.ndarray]],
    opened: header_lib.Header | None,
    shared: tuple[jax.Array, ...],
  ) -> tuple[state_lib.Sums, Mapping[str, jax.Array]]:
    """Reads a whole step for what its examples mean to each other."""
    pools = coupling.empty()
    for batch in batches:
      own = {k: v for k, v in batch.items() if k not in packing.ROWLESS}
      rows = put_batch(self.mesh, own)
      header = () if len(own) == len(batch) else (opened, shared[1])
      pools = coupling.pool(pools, state, base, rows, *header)
    sums, by_token = coupling.couple(sums, pools)
    return sums, {coupled.PULL: by_token}


def _middle(batches: Sequence[Mapping[str, np.ndarray]]) -> int:
  """Returns where the second half of the work begins; 0 for one batch."""
  if len(batches) < 2:
    return 0
  sizes = np.cumsum([batch["tokens"].size for batch in batches])
  middle = int(np.searchsorted(sizes, sizes[-1] / 2)) + 1
  return min(middle, len(batches) - 1)


def put_batch(
  mesh: Mesh, batch: Mapping[str, np.ndarray]
) -> objective_lib.Batch:
  """Puts a micro-batch on the mesh: rows split, the header on every device."""
  whole = {k: v for k, v in batch.items() if k in packing.ROWLESS}
  rows = {k: v for k, v in batch.items() if k not in whole}
  return sharding.put_batch(mesh, rows) | sharding.put_replicated(mesh, whole)


def _placements(
  params: Tree,
  replicated: NamedSharding,
  extras: Sequence[str],
  told: Mapping[str, float] | None,
) -> tuple[state_lib.TrainState, state_lib.Sums]:
  """Returns the shardings of state and sums: those of the parameters."""
  placed = jax.tree.map(lambda leaf: leaf.sharding, params)
  whole: Any = replicated  # In the place of an array.
  moments = optimizer.AdamState(mu=placed, nu=placed)
  if isinstance(params, own_weights.Trained):
    moments = optimizer.OwnAdamState(mu=placed, nu=placed, own_steps=whole)
  state = state_lib.TrainState(step=whole, params=placed, moments=moments)
  if told is not None:
    state = state_lib.AdaptiveState(
      state.step, state.params, state.moments, dict.fromkeys(told, whole)
    )
  sums = state_lib.Sums(
    grads=placed,
    loss=whole,
    tokens=whole,
    micro=whole,
    extras=dict.fromkeys(extras, whole),
  )
  return state, sums


def _prepare(model: LanguageModel, base: Tree) -> Tree:
  """Returns the base as programs read it, the objective's tables as given."""
  if isinstance(base, objective_lib.Told):
    return base.replace(base=model.prepare(base.base))
  return model.prepare(base)


def _apply(
  adamw: optimizer.AdamW,
  objective: objective_lib.Objective,
  state: state_lib.TrainState,
  sums: state_lib.Sums,
  learning_rate: jax.Array,
) -> tuple[state_lib.TrainState, state_lib.Sums, dict[str, jax.Array]]:
  """One optimizer step: the mean over all tokens, then empty sums."""
  with jax.named_scope("optimizer"):
    tokens = jnp.maximum(sums.tokens, 1).astype(jnp.float32)
    grads = jax.tree.map(lambda g: g / tokens, sums.grads)
    params, moments, norm = adamw.update(
      state.params, grads, state.moments, state.step, learning_rate
    )
  metrics = {"loss": sums.loss / tokens, "grad_norm": norm}
  metrics |= {name: total / tokens for name, total in sums.extras.items()}
  metrics |= state_lib.told(state)
  changed = {"step": state.step + 1, "params": params, "moments": moments}
  if isinstance(objective, objective_lib.Adaptive):
    changed["told"] = objective.follow(state_lib.told(state), sums.extras)
  state = state.replace(**changed)
  return state, jax.tree.map(jnp.zeros_like, sums), metrics


def make_steps(
  model: LanguageModel,
  adamw: optimizer.AdamW,
  mesh: Mesh,
  params: Tree,
  *,
  loss_chunk: int,
  dropout_seed: int | None,
  variables: Callable[[Tree, Tree], dict[str, Tree]] = adapter_variables,
  objective: objective_lib.Objective | None = None,
) -> Steps:
  """Builds the compiled functions of a run.

  Args:
    model: the language model.
    adamw: the optimizer.
    mesh: axes data, fsdp, tensor; rows are split over data and fsdp.
    params: the trained parameters, placed on the mesh; only shapes and
      placement are read.
    loss_chunk: positions, over all rows of a device, of a block of logits.
    dropout_seed: of the dropout masks, which also depend on step and
      micro-batch but not on the mesh; None = no dropout.
    variables: puts base and trained parameters together for the model.
    objective: what is minimised; None = the loss of a language model.
  """
  objective = objective or objective_lib.LanguageModelling()
  replicated = NamedSharding(mesh, PartitionSpec())
  told = None
  if isinstance(objective, objective_lib.Adaptive):
    told = objective.start()
  state_placed, sums_placed = _placements(
    params, replicated, objective.extras, told
  )
  made = programs.Programs(
    model, mesh, loss_chunk, dropout_seed, variables, objective
  )

  def init(params: Tree) -> tuple[state_lib.TrainState, state_lib.Sums]:
    # A copy: jit hands an unchanged input back as it is, and `apply` donates
    # the state, which would delete the caller's parameters.
    params = jax.tree.map(jnp.copy, params)
    sums = state_lib.zero_sums(params, objective.extras)
    return state_lib.init_state(params, adamw, told), sums

  return Steps(
    prepare=functools.partial(_prepare, model),
    init=jax.jit(init, out_shardings=(state_placed, sums_placed)),
    fork=jax.jit(made.fork, out_shardings=(sums_placed, replicated)),
    join=jax.jit(
      made.join,
      donate_argnames=("sums", "header"),
      out_shardings=(sums_placed, replicated),
    ),
    open_header=jax.jit(made.open_header, out_shardings=replicated),
    accumulate=jax.jit(
      made.accumulate,
      donate_argnames=("sums", "header"),
      out_shardings=(sums_placed, replicated),
    ),
    close_header=jax.jit(
      made.close_header, donate_argnames="sums", out_shardings=sums_placed
    ),
    apply=jax.jit(
      functools.partial(_apply, adamw, objective),
      donate_argnames=("state", "sums"),
      out_shardings=(state_placed, sums_placed, replicated),
    ),
    evaluate=jax.jit(made.evaluate, out_shardings=(replicated, replicated)),
    mesh=mesh,
    executor=executor_lib.Executor.of(mesh),
    coupling=_coupling(made, objective, replicated, sums_placed),
  )


def _coupling(
  made: programs.Programs,
  objective: objective_lib.Objective,
  replicated: NamedSharding,
  sums_placed: state_lib.Sums,
) -> Coupling | None:
  """Returns what couples the examples of a step, if the objective does."""
  if not isinstance(objective, coupled.Coupled):
    return None
  size = objective.num_pools, made.model.config.hidden_size
  return Coupling(
    empty=jax.jit(
      functools.partial(coupled.empty, *size), out_shardings=replicated
    ),
    pool=jax.jit(made.pool, donate_argnames="pools", out_shardings=replicated),
    couple=jax.jit(
      made.couple,
      donate_argnames="sums",
      out_shardings=(sums_placed, replicated),
    ),
  )
