"""The loss of a micro-batch, with or without its header."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bigrec_jax.data.text import packing
from bigrec_jax.models import stacking
from bigrec_jax.training import header as header_lib, loss

Tree = Any
Batch = Mapping[str, jax.Array]  # See data/text/packing.py.


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
    model: the language model.
    variables: its collections.
    batch: int32 [R, T] arrays `tokens`, `positions`, `segment_ids` and
      `loss_mask` (data/text/packing.py).
    chunk: positions of every row whose logits are held at once.
    dropout_key: None switches dropout off.
    mesh: for sharding constraints; None = one device.
    prefix: keys and values of the header that the examples begin with, whose
      own loss is not counted here (header.py); None = rows hold whole texts.
  """
  model, variables = stacking.taken_apart(model, variables)
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
    model: the language model.
    variables: its collections.
    batch: as there; maybe `header` and `header_mask`, int32 [C], which count
      as often as there are examples.
    chunk: as there.
    mesh: as there.
  """
  rows = {k: v for k, v in batch.items() if k not in packing.ROWLESS}
  if len(rows) == len(batch):
    return batch_loss(model, variables, rows, chunk, None, mesh)
  apart, own = stacking.taken_apart(model, variables)
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
