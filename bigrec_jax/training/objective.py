"""What training minimises: the loss of a micro-batch, as one small interface.

An `Objective` maps (language model, variables, batch, key) to a loss sum, how
many terms it has, and named extras. The default is the loss of a language
model, with or without the header that examples share.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bigrec_jax.data.text import packing
from bigrec_jax.models import LanguageModel, soft_tokens
from bigrec_jax.training import header as header_lib, loss

Tree = Any
Batch = Mapping[str, jax.Array]  # See data/text/packing.py.


@dataclasses.dataclass(frozen=True)
class Terms:
  """What a micro-batch adds to the sums of a step.

  Attributes:
    loss: float32 scalar, summed over the terms; what is differentiated.
    count: int32 scalar, how many terms; the step's mean is over all of them.
    extras: float32 scalars by the objective's names, summed over the same
      terms; metrics/train.jsonl has their means.
  """

  loss: jax.Array
  count: jax.Array
  extras: Mapping[str, jax.Array]


class Objective(Protocol):
  """What training minimises.

  Attributes:
    extras: the names of its extras.
    reads_header: it takes rows without the beginning that examples share
      (header.py) and `prefix` in place of it. The loss of that beginning
      itself is added outside: it is a language model's.
    tables: arrays by name that it reads in every batch, such as a trie; they
      are arguments of the compiled programs, and whole on every device.
  """

  @property
  def extras(self) -> tuple[str, ...]:
    """The names of its extras."""
    ...

  @property
  def reads_header(self) -> bool:
    """Whether rows may come without their beginning."""
    ...

  @property
  def tables(self) -> Mapping[str, Any]:
    """Arrays by name that it reads in every batch."""
    ...

  def __call__(
    self,
    model: LanguageModel,
    variables: Mapping[str, Tree],
    batch: Batch,
    key: jax.Array | None,
    *,
    chunk: int,
    mesh: Mesh | None,
    prefix: Tree | None,
  ) -> Terms:
    """Returns the terms of the rows of one micro-batch.

    Args:
      model: the network.
      variables: its collections.
      batch: as in `batch_loss`.
      key: of dropout; None switches it off, as in evaluation.
      chunk: positions of every row whose logits are held at once.
      mesh: for sharding constraints; None = one device.
      prefix: as in `batch_loss`.
    """
    ...


@runtime_checkable
class Adaptive(Objective, Protocol):
  """An objective with numbers that change from step to step.

  They are part of the state of training: checkpoints hold them, a step finds
  them by name in its batches, and evaluations don't.
  """

  def start(self) -> dict[str, float]:
    """Returns what the first step is told, by name."""
    ...

  def follow(
    self, told: Mapping[str, jax.Array], sums: Mapping[str, jax.Array]
  ) -> dict[str, jax.Array]:
    """Returns what the next step is told.

    Args:
      told: what a step was told, float32 scalars.
      sums: of its extras, over all micro-batches.
    """
    ...


class Told(flax.struct.PyTreeNode):
  """What a run reads and never changes, where its objective has tables.

  Attributes:
    base: the frozen base.
    tables: of the objective, on the mesh.
  """

  base: Tree
  tables: Mapping[str, Any]

  @staticmethod
  def rows(base: Tree, rows: Batch) -> Batch:
    """Returns rows with the tables that `base` holds, if it holds any."""
    return {**rows, **base.tables} if isinstance(base, Told) else rows


@dataclasses.dataclass(frozen=True)
class LanguageModelling:
  """Next-token cross-entropy over the labels of the text."""

  extras: tuple[str, ...] = ()
  reads_header: bool = True

  @property
  def tables(self) -> Mapping[str, Any]:
    """None."""
    return {}

  def __call__(
    self,
    model: LanguageModel,
    variables: Mapping[str, Tree],
    batch: Batch,
    key: jax.Array | None,
    *,
    chunk: int,
    mesh: Mesh | None,
    prefix: Tree | None,
  ) -> Terms:
    """Returns the terms; see `Objective`."""
    loss_sum, count = batch_loss(
      model, variables, batch, chunk, key, mesh, prefix
    )
    return Terms(loss_sum, count, {})


@dataclasses.dataclass(frozen=True, eq=False)
class SoftTokens(LanguageModelling):
  """The loss of texts with soft tokens, which are never labels.

  Any objective whose states are those of `states` reads soft tokens, if its
  tables have the vectors.

  Attributes:
    item_vectors: float32 [I, E], of a frozen CF model.
  """

  item_vectors: Any = None

  @property
  def tables(self) -> Mapping[str, Any]:
    """The items' vectors."""
    return {soft_tokens.TABLE: self.item_vectors}


def batch_loss(
  model: LanguageModel,
  variables: Mapping[str, Tree],
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
      `loss_mask` (data/text/packing.py); maybe soft tokens.
    chunk: positions of every row whose logits are held at once.
    dropout_key: None switches dropout off.
    mesh: for sharding constraints; None = one device.
    prefix: keys and values of the header that the examples begin with, whose
      own loss is not counted here (header.py); None = rows hold whole texts.
  """
  model, variables, hidden = states(
    model, variables, batch, dropout_key, prefix
  )
  rows = (batch["tokens"], batch["segment_ids"], batch["loss_mask"])
  return loss.of_rows(model, variables, hidden, *rows, chunk, mesh)


def states(
  model: LanguageModel,
  variables: Mapping[str, Tree],
  batch: Batch,
  dropout_key: jax.Array | None,
  prefix: Tree | None,
) -> tuple[LanguageModel, Mapping[str, Tree], jax.Array]:
  """Runs the rows of a micro-batch; the arguments are those of `batch_loss`.

  Returns:
    model and variables that a program calls, and final states [R, T, D].
  """
  model, variables = model.executable(variables)
  rngs = None if dropout_key is None else {"dropout": dropout_key}
  with jax.named_scope("forward"):
    hidden = model.apply(
      variables,
      soft_tokens.inputs(model, variables, batch),
      batch["positions"],
      batch["segment_ids"],
      deterministic=dropout_key is None,
      rngs=rngs,
      prefix=prefix,
    )  # [R, T, D]
  return model, variables, hidden


def whole_terms(
  objective: Objective,
  model: LanguageModel,
  variables: Mapping[str, Tree],
  batch: Batch,
  chunk: int,
  mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Returns loss sum and count without dropout, the header's loss included.

  Args:
    objective: of the rows.
    model: the language model.
    variables: its collections.
    batch: as in `batch_loss`; maybe `header` and `header_mask`, int32 [C],
      which count as often as there are examples.
    chunk: as there.
    mesh: as there.
  """
  rows = {k: v for k, v in batch.items() if k not in packing.ROWLESS}
  if len(rows) == len(batch):
    found = objective(
      model, variables, rows, None, chunk=chunk, mesh=mesh, prefix=None
    )
    return found.loss, found.count
  apart, own = model.executable(variables)
  tokens, mask = (batch[name] for name in packing.ROWLESS)
  hidden, prefix = header_lib.read(apart, own, tokens, None)
  once, labels = header_lib.loss_sum(
    apart, own, hidden, tokens, mask, chunk, mesh
  )
  found = objective(
    model, variables, rows, None, chunk=chunk, mesh=mesh, prefix=prefix
  )
  examples = header_lib.count_examples(rows["segment_ids"])
  return (
    found.loss + examples.astype(jnp.float32) * once,
    found.count + examples * labels,
  )
