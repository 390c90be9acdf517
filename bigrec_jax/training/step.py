"""The compiled parts of training: accumulate, apply, evaluate.

An optimizer step is a host loop of `accumulate` over its micro-batches and one
`apply`; where examples share their beginning, that runs forward before the
loop and backward after it (header.py). Sums travel, not means: the gradient of
the summed loss is divided once by the labels of the whole step, so the result
is the token-weighted mean over the global batch whatever the number and shape
of the micro-batches.
Each micro-batch shape compiles once.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bigrec_jax.data.text import packing
from bigrec_jax.devices import executor as executor_lib, sharding
from bigrec_jax.training import (
  header as header_lib,
  objective as objective_lib,
  optimizer,
  state as state_lib,
)

Tree = Any
# In place of the micro-batch's number: the key of the header's dropout.
_HEADER_KEY = np.uint32(2**32 - 1)
# What one thread adds up: sums, and the header if it is shared.
Part = tuple[state_lib.Sums, header_lib.Header | None]


def adapter_variables(base: Tree, params: Tree) -> dict[str, Tree]:
  """Variables of the model where the adapter is trained and the base isn't."""
  return {"params": base, "lora": params}


def base_variables(base: None, params: Tree) -> dict[str, Tree]:
  """Variables of the model where the base itself is trained (pretraining)."""
  del base
  return {"params": params}


@dataclasses.dataclass(frozen=True)
class Steps:
  """Compiled functions of one training run.

  Attributes:
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
  """

  init: Callable[..., Any]
  fork: Callable[..., Any]
  join: Callable[..., Any]
  open_header: Callable[..., Any]
  accumulate: Callable[..., Any]
  close_header: Callable[..., Any]
  apply: Callable[..., Any]
  evaluate: Callable[..., Any]
  mesh: Mesh
  executor: executor_lib.Executor

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
    opened, shared = None, ()
    first = next((b for b in batches if packing.ROWLESS[0] in b), None)
    if first is not None:
      shared = tuple(
        sharding.put_replicated(self.mesh, first[name])
        for name in packing.ROWLESS
      )
      opened = self.open_header(state, base, shared[0])
    parts, halves = [(sums, opened)], [batches]
    middle = _middle(batches)
    if middle and self.executor.width > 1:
      number = sharding.put_replicated(self.mesh, np.int32(middle))
      parts.append(self.fork(sums, opened, number))
      halves = [batches[:middle], batches[middle:]]
    team = self.executor.team()
    add = functools.partial(self._add_part, state, base, team, len(parts) > 1)
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
    part: Part,
    batches: Sequence[Mapping[str, np.ndarray]],
  ) -> Part:
    """Adds micro-batches to what a thread has; `waits` for each of them.

    A thread alone doesn't wait: it runs ahead, to hand the device its next
    batch.
    """
    sums, opened = part
    for batch in batches:
      if team.stopped.is_set():
        break
      rows = {k: v for k, v in batch.items() if k not in packing.ROWLESS}
      whole = len(rows) == len(batch)
      rows = put_batch(self.mesh, rows)
      given = None if whole else opened
      with team.calling:
        sums, given = self.accumulate(sums, state, base, rows, given)
      opened = opened if whole else given
      if waits:
        jax.block_until_ready(sums.loss)
    return sums, opened


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
  params: Tree, replicated: NamedSharding, extras: Sequence[str]
) -> tuple[state_lib.TrainState, state_lib.Sums]:
  """Returns the shardings of state and sums: those of the parameters."""
  placed = jax.tree.map(lambda leaf: leaf.sharding, params)
  state = state_lib.TrainState(
    step=replicated,
    params=placed,
    moments=optimizer.AdamState(mu=placed, nu=placed),
  )
  sums = state_lib.Sums(
    grads=placed,
    loss=replicated,
    tokens=replicated,
    micro=replicated,
    extras=dict.fromkeys(extras, replicated),
  )
  return state, sums


def _apply(
  adamw: optimizer.AdamW,
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
  state = state_lib.TrainState(
    step=state.step + 1, params=params, moments=moments
  )
  return state, jax.tree.map(jnp.zeros_like, sums), metrics


@dataclasses.dataclass(frozen=True)
class _Programs:
  """What is compiled, as plain functions; attributes as in `make_steps`."""

  model: nn.Module
  mesh: Mesh
  loss_chunk: int
  dropout_seed: int | None
  variables: Callable[[Tree, Tree], dict[str, Tree]]
  objective: objective_lib.Objective

  def _chunk(self, rows: objective_lib.Batch) -> int:
    shards = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
    rows_here = max(1, rows["tokens"].shape[0] // shards)
    return max(1, self.loss_chunk // rows_here)

  def _key(
    self, state: state_lib.TrainState, number: jax.Array
  ) -> jax.Array | None:
    if self.dropout_seed is None:
      return None
    key = jax.random.fold_in(jax.random.key(self.dropout_seed), state.step)
    return jax.random.fold_in(key, number)

  def open_header(self, state, base, tokens):
    """Runs the header for the keys and values that rows attend to."""
    apart = self.model.executable(self.variables(base, state.params))
    key = self._key(state, _HEADER_KEY)
    return header_lib.new(header_lib.read(*apart, tokens, key)[1])

  def accumulate(self, sums, state, base, rows, header=None):
    """Adds loss and gradients of one micro-batch."""
    key = self._key(state, sums.micro)
    prefix = None if header is None else header.prefix

    def objective(params, prefix):
      found = self.objective(
        self.model,
        self.variables(base, params),
        rows,
        key,
        chunk=self._chunk(rows),
        mesh=self.mesh,
        prefix=prefix,
      )
      return found.loss, (found.count, found.extras)

    (total, (count, extras)), (grads, d_prefix) = jax.value_and_grad(
      objective, argnums=(0, 1), has_aux=True
    )(state.params, prefix)
    sums = sums.add(grads, total, count, extras)
    sums = sums.replace(micro=sums.micro + 1)
    if header is not None:
      header = header.add(d_prefix, rows["segment_ids"])
    return sums, header

  def close_header(self, sums, state, base, tokens, mask, header):
    """Adds the header's own loss, and the gradient that went through it."""
    key = self._key(state, _HEADER_KEY)

    def run(params):
      apart = self.model.executable(self.variables(base, params))
      hidden, prefix = header_lib.read(*apart, tokens, key)
      total, labels = header_lib.loss_sum(
        *apart, hidden, tokens, mask, self.loss_chunk, self.mesh
      )
      return (prefix, total), labels

    (prefix, total), backward, labels = jax.vjp(run, state.params, has_aux=True)
    examples = header.examples.astype(jnp.float32)
    d_prefix = jax.tree.map(
      lambda g, x: g.astype(x.dtype), header.grads, prefix
    )
    (grads,) = backward((d_prefix, examples))
    return sums.add(grads, examples * total, header.examples * labels)

  def fork(self, sums, header, number):
    """Returns empty sums and the same header, for a second thread."""
    sums = jax.tree.map(jnp.zeros_like, sums).replace(micro=number)
    if header is not None:
      # A copy: `accumulate` donates what it is given.
      header = header_lib.new(jax.tree.map(jnp.copy, header.prefix))
    return sums, header

  def join(self, sums, header, more, other):
    """Returns the sums of two threads; `more` has the later micro-batches."""
    sums = sums.add(more.grads, more.loss, more.tokens, more.extras)
    if header is not None:
      header = header.replace(
        grads=state_lib.add_float32(header.grads, other.grads),
        examples=header.examples + other.examples,
      )
    return sums.replace(micro=more.micro), header

  def evaluate(self, params, base, batch):
    """Returns loss and labels of one micro-batch, without dropout."""
    given = self.variables(base, params)
    return objective_lib.whole_terms(
      self.objective, self.model, given, batch, self._chunk(batch), self.mesh
    )


def make_steps(
  model: nn.Module,
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
  state_placed, sums_placed = _placements(params, replicated, objective.extras)
  made = _Programs(model, mesh, loss_chunk, dropout_seed, variables, objective)

  def init(params):
    # A copy: jit hands an unchanged input back as it is, and `apply` donates
    # the state, which would delete the caller's parameters.
    params = jax.tree.map(jnp.copy, params)
    sums = state_lib.zero_sums(params, objective.extras)
    return state_lib.init_state(params, adamw), sums

  return Steps(
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
      functools.partial(_apply, adamw),
      donate_argnames=("state", "sums"),
      out_shardings=(state_placed, sums_placed, replicated),
    ),
    evaluate=jax.jit(made.evaluate, out_shardings=(replicated, replicated)),
    mesh=mesh,
    executor=executor_lib.Executor.of(mesh),
  )
