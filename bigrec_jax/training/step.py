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
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bigrec_jax import sharding
from bigrec_jax.data import packing
from bigrec_jax.models import llama
from bigrec_jax.training import (
  header as header_lib,
  loss,
  optimizer,
  state as state_lib,
)

Tree = Any
# In place of the micro-batch's number: the key of the header's dropout.
_HEADER_KEY = np.uint32(2**32 - 1)
Batch = Mapping[str, jax.Array]  # See data/packing.py.


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
    open_header: (state, base, tokens) -> Header.
    accumulate: (sums, state, base, rows, header) -> (sums, header), header
      None where rows hold whole texts. Donates both.
    close_header: (sums, state, base, tokens, mask, header) -> sums. Donates
      `sums`.
    apply: (state, sums, learning_rate) -> (state, zero sums, metrics), with
      metrics {"loss", "grad_norm"} float32 scalars. Donates state and sums.
    evaluate: (params, base, batch) -> (loss sum, label count).
    mesh: where all of them run.
  """

  init: Callable[..., Any]
  open_header: Callable[..., Any]
  accumulate: Callable[..., Any]
  close_header: Callable[..., Any]
  apply: Callable[..., Any]
  evaluate: Callable[..., Any]
  mesh: Mesh

  def add_up(
    self,
    sums: state_lib.Sums,
    state: state_lib.TrainState,
    base: Tree,
    batches: Iterable[Mapping[str, np.ndarray]],
  ) -> state_lib.Sums:
    """Accumulates all micro-batches of one optimizer step.

    Args:
      sums: of `init` or `apply`; donated.
      state: of the step.
      base: the frozen base, or None.
      batches: micro-batches on the host, this process's rows. The ones that
        have a header have the same.

    Returns:
      The sums, ready for `apply`.
    """
    opened, shared = None, None
    for batch in batches:
      batch = put_batch(self.mesh, batch)
      rows = {k: v for k, v in batch.items() if k not in packing.ROWLESS}
      if len(rows) == len(batch):
        sums, _ = self.accumulate(sums, state, base, rows, None)
        continue
      if opened is None:
        shared = [batch[name] for name in packing.ROWLESS]
        opened = self.open_header(state, base, shared[0])
      sums, opened = self.accumulate(sums, state, base, rows, opened)
    if opened is None:
      return sums
    return self.close_header(sums, state, base, *shared, opened)


def batch_loss(
  model: nn.Module,
  variables: dict[str, Tree],
  batch: Batch,
  chunk: int,
  dropout_key: jax.Array | None,
  mesh: Mesh | None = None,
  prefix: Tree | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Returns loss sum and label count of the rows of one micro-batch.

  Args:
    model: the Llama module.
    variables: its collections.
    batch: int32 [R, T] arrays `tokens`, `positions`, `segment_ids` and
      `loss_mask` (data/packing.py).
    chunk: positions of every row whose logits are held at once.
    dropout_key: None switches dropout off.
    mesh: for sharding constraints; None = one device.
    prefix: keys and values of the header that the examples begin with, whose
      own loss is not counted here (header.py); None = rows hold whole texts.
  """
  model, variables = llama.taken_apart(model, variables)
  rngs = None if dropout_key is None else {"dropout": dropout_key}
  tokens, segment_ids = batch["tokens"], batch["segment_ids"]
  with jax.named_scope("forward"):
    hidden = model.apply(
      variables,
      tokens,
      batch["positions"],
      segment_ids,
      deterministic=dropout_key is None,
      rngs=rngs,
      prefix=prefix,
    )  # [R, T, D]
  rows = (tokens, segment_ids, batch["loss_mask"])
  return loss.of_rows(model, variables, hidden, *rows, chunk, mesh)


def whole_loss(
  model: nn.Module,
  variables: dict[str, Tree],
  batch: Batch,
  chunk: int,
  mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
  """As `batch_loss` without dropout, the header's loss included.

  Args:
    model: the Llama module.
    variables: its collections.
    batch: as there; maybe `header` and `header_mask`, int32 [C], which count
      as often as there are examples.
    chunk: as there.
    mesh: as there.
  """
  rows = {k: v for k, v in batch.items() if k not in packing.ROWLESS}
  if len(rows) == len(batch):
    return batch_loss(model, variables, rows, chunk, None, mesh)
  apart, own = llama.taken_apart(model, variables)
  tokens, mask = (batch[name] for name in packing.ROWLESS)
  hidden, prefix = header_lib.read(apart, own, tokens, None)
  once, labels = header_lib.loss_sum(
    apart, own, hidden, tokens, mask, chunk, mesh
  )
  total, count = batch_loss(
    model, variables, rows, chunk, None, mesh, prefix=prefix
  )
  examples = header_lib.count_examples(rows["segment_ids"])
  return total + examples.astype(jnp.float32) * once, count + examples * labels


def put_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> Batch:
  """Puts a micro-batch on the mesh: rows split, the header on every device."""
  whole = {k: v for k, v in batch.items() if k in packing.ROWLESS}
  rows = {k: v for k, v in batch.items() if k not in whole}
  return sharding.put_batch(mesh, rows) | sharding.put_replicated(mesh, whole)


def _placements(
  params: Tree, replicated: NamedSharding
) -> tuple[state_lib.TrainState, state_lib.Sums]:
  """Returns the shardings of state and sums: those of the parameters."""
  placed = jax.tree.map(lambda leaf: leaf.sharding, params)
  state = state_lib.TrainState(
    step=replicated,
    params=placed,
    moments=optimizer.AdamState(mu=placed, nu=placed),
  )
  sums = state_lib.Sums(
    grads=placed, loss=replicated, tokens=replicated, micro=replicated
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

  def _chunk(self, rows: Batch) -> int:
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
    apart = llama.taken_apart(self.model, self.variables(base, state.params))
    key = self._key(state, _HEADER_KEY)
    return header_lib.new(header_lib.read(*apart, tokens, key)[1])

  def accumulate(self, sums, state, base, rows, header=None):
    """Adds loss and gradients of one micro-batch."""
    key = self._key(state, sums.micro)
    prefix = None if header is None else header.prefix

    def objective(params, prefix):
      given = self.variables(base, params)
      chunk = self._chunk(rows)
      return batch_loss(self.model, given, rows, chunk, key, self.mesh, prefix)

    (total, count), (grads, d_prefix) = jax.value_and_grad(
      objective, argnums=(0, 1), has_aux=True
    )(state.params, prefix)
    sums = sums.add(grads, total, count).replace(micro=sums.micro + 1)
    if header is not None:
      header = header.add(d_prefix, rows["segment_ids"])
    return sums, header

  def close_header(self, sums, state, base, tokens, mask, header):
    """Adds the header's own loss, and the gradient that went through it."""
    key = self._key(state, _HEADER_KEY)

    def run(params):
      apart = llama.taken_apart(self.model, self.variables(base, params))
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

  def evaluate(self, params, base, batch):
    """Returns loss and labels of one micro-batch, without dropout."""
    given = self.variables(base, params)
    return whole_loss(self.model, given, batch, self._chunk(batch), self.mesh)


def make_steps(
  model: nn.Module,
  adamw: optimizer.AdamW,
  mesh: Mesh,
  params: Tree,
  *,
  loss_chunk: int,
  dropout_seed: int | None,
  variables: Callable[[Tree, Tree], dict[str, Tree]] = adapter_variables,
) -> Steps:
  """Builds the compiled functions of a run.

  Args:
    model: the Llama module.
    adamw: the optimizer.
    mesh: axes data, fsdp, tensor; rows are split over data and fsdp.
    params: the trained parameters, placed on the mesh; only shapes and
      placement are read.
    loss_chunk: positions, over all rows of a device, of a block of logits.
    dropout_seed: of the dropout masks, which also depend on step and
      micro-batch but not on the mesh; None = no dropout.
    variables: puts base and trained parameters together for the model.
  """
  replicated = NamedSharding(mesh, PartitionSpec())
  state_placed, sums_placed = _placements(params, replicated)
  made = _Programs(model, mesh, loss_chunk, dropout_seed, variables)

  def init(params):
    # A copy: jit hands an unchanged input back as it is, and `apply` donates
    # the state, which would delete the caller's parameters.
    params = jax.tree.map(jnp.copy, params)
    return state_lib.init_state(params, adamw), state_lib.zero_sums(params)

  return Steps(
    init=jax.jit(init, out_shardings=(state_placed, sums_placed)),
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
  )
