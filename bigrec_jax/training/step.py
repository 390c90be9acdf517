"""The compiled parts of training: accumulate, apply, evaluate.

An optimizer step is a host loop of `accumulate` over its micro-batches and one
`apply`. Sums travel, not means: the gradient of the summed loss is divided
once by the labels of the whole step, so the result is the token-weighted mean
over the global batch whatever the number and shape of the micro-batches.
Each micro-batch shape compiles once.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bigrec_jax import sharding
from bigrec_jax.data import packing
from bigrec_jax.models import llama
from bigrec_jax.training import loss, optimizer, state as state_lib

Tree = Any
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
    accumulate: (sums, state, base, batch) -> sums. Donates `sums`.
    apply: (state, sums, learning_rate) -> (state, zero sums, metrics), with
      metrics {"loss", "grad_norm"} float32 scalars. Donates state and sums.
    evaluate: (params, base, batch) -> (loss sum, label count).
  """

  init: Callable[..., Any]
  accumulate: Callable[..., Any]
  apply: Callable[..., Any]
  evaluate: Callable[..., Any]


def batch_loss(
  model: nn.Module,
  variables: dict[str, Tree],
  batch: Batch,
  chunk: int,
  dropout_key: jax.Array | None,
  mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Returns loss sum and label count of one micro-batch.

  Args:
    model: the Llama module.
    variables: its collections.
    batch: int32 [R, T] arrays `tokens`, `positions`, `segment_ids` and
      `loss_mask`; maybe `header` and `header_mask`, which count as often as
      there are examples (data/packing.py).
    chunk: positions of every row whose logits are held at once.
    dropout_key: None switches dropout off.
    mesh: for sharding constraints; None = one device.
  """
  model, variables = llama.taken_apart(model, variables)

  def apply(key, *inputs, **options):
    rngs = None if key is None else {"dropout": key}
    return model.apply(
      variables, *inputs, deterministic=key is None, rngs=rngs, **options
    )

  def loss_sum(hidden, tokens, segment_ids, loss_mask):
    head = model.apply(variables, method="head_weight")  # [D, V]
    labels, mask = loss.next_token_targets(tokens, segment_ids, loss_mask)
    return loss.cross_entropy(hidden, head, labels, mask, chunk, mesh)

  rows = (batch["tokens"], batch["segment_ids"])
  if "header" not in batch:
    with jax.named_scope("forward"):
      hidden = apply(dropout_key, rows[0], batch["positions"], rows[1])
    return loss_sum(hidden, *rows, batch["loss_mask"])  # [R, T, D]

  header = batch["header"]  # [C]
  keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
  with jax.named_scope("header"):
    first, prefix = apply(keys[0], header[:-1], method="read_header")
    # One position more, which predicts nothing: the last token's.
    first = jnp.pad(first, ((0, 0), (0, 1), (0, 0)))  # [1, C, D]
    one = header[None], jnp.ones_like(header)[None], batch["header_mask"][None]
    header_loss, header_labels = loss_sum(first, *one)
  with jax.named_scope("forward"):
    hidden = apply(keys[1], rows[0], batch["positions"], rows[1], prefix=prefix)
  total, count = loss_sum(hidden, *rows, batch["loss_mask"])
  # Every example of the micro-batch has the header's labels.
  examples = jnp.sum(jnp.max(batch["segment_ids"], axis=1), dtype=jnp.int32)
  total += examples.astype(jnp.float32) * header_loss
  return total, count + examples * header_labels


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
  row_shards = mesh.shape["data"] * mesh.shape["fsdp"]

  def chunk_of(batch):
    rows_here = max(1, batch["tokens"].shape[0] // row_shards)
    return max(1, loss_chunk // rows_here)

  def init(params):
    # A copy: jit hands an unchanged input back as it is, and `apply` donates
    # the state, which would delete the caller's parameters.
    params = jax.tree.map(jnp.copy, params)
    return state_lib.init_state(params, adamw), state_lib.zero_sums(params)

  def accumulate(sums, state, base, batch):
    key = None
    if dropout_seed is not None:
      key = jax.random.fold_in(jax.random.key(dropout_seed), state.step)
      key = jax.random.fold_in(key, sums.micro)

    def objective(params):
      return batch_loss(
        model, variables(base, params), batch, chunk_of(batch), key, mesh
      )

    (total, count), grads = jax.value_and_grad(objective, has_aux=True)(
      state.params
    )
    with jax.named_scope("accumulate"):
      return state_lib.Sums(
        grads=jax.tree.map(
          lambda a, g: a + g.astype(jnp.float32), sums.grads, grads
        ),
        loss=sums.loss + total,
        tokens=sums.tokens + count,
        micro=sums.micro + 1,
      )

  def evaluate(params, base, batch):
    return batch_loss(
      model, variables(base, params), batch, chunk_of(batch), None, mesh
    )

  return Steps(
    init=jax.jit(init, out_shardings=(state_placed, sums_placed)),
    accumulate=jax.jit(
      accumulate, donate_argnames="sums", out_shardings=sums_placed
    ),
    apply=jax.jit(
      functools.partial(_apply, adamw),
      donate_argnames=("state", "sums"),
      out_shardings=(state_placed, sums_placed, replicated),
    ),
    evaluate=jax.jit(evaluate, out_shardings=(replicated, replicated)),
  )
