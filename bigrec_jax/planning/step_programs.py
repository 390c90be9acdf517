"""The programs of an optimizer step on abstract arguments.

They are the very functions that training calls. Their rows are texts of the
sizes that `config.plan` tells, or those of a task's first step (own_step.py).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from bigrec_jax import config as config_lib
from bigrec_jax.data.text import packing, shared_header
from bigrec_jax.devices import sharding
from bigrec_jax.models import own_weights
from bigrec_jax.planning import arguments, compiling, own_step
from bigrec_jax.training import (
  coupled,
  objective as objective_lib,
  optimizer,
  state as state_lib,
  trainer,
)

_Lower = Callable[[], jax.stages.Lowered]
_BATCH = ("tokens", "positions", "segment_ids", "loss_mask")


@dataclasses.dataclass(frozen=True)
class TrainShape:
  """Sizes of a micro-batch, and what of a text its rows hold.

  Attributes:
    rows: R.
    length: T.
    chunk: positions of every row whose logits are held at once.
    prefix: P, tokens with which every text begins and that rows lack, because
      a step computes them once (training/header.py); 0 = rows hold whole texts.
    own: tokens of a text that rows hold, on average.
  """

  rows: int
  length: int
  chunk: int
  prefix: int
  own: int


def train_shape(
  config: config_lib.Config, net: arguments.Network, rows: int
) -> TrainShape:
  """Returns the shape of a micro-batch.

  Args:
    config: sections train and plan.
    net: for the rows of a device, and whether its attention knows a prefix.
    rows: R.
  """
  train, length = config.train, config.train.max_length
  own, prefix = min(config.plan.text_tokens, length), 0
  if trainer.shares_header(train, net.model):
    # The last common token stays in the rows (shared_header.py).
    common = min(config.plan.prefix_tokens, own) - 1
    prefix = common if common >= shared_header.LEAST else 0
  own -= prefix
  if not train.packing:
    length = next(
      bucket
      for bucket in sorted({*train.length_buckets, length})
      if bucket >= own
    )
  here = max(1, rows // sharding.batch_size_unit(net.mesh))
  chunk = min(length, max(1, train.loss_chunk // here))
  return TrainShape(rows, length, chunk, prefix, own)


@dataclasses.dataclass(frozen=True)
class HeaderShape:
  """Sizes of the header: its tokens P, positions of a block of logits."""

  prefix: int
  chunk: int


def header_shape(config: config_lib.Config, shape: TrainShape) -> HeaderShape:
  """Returns the shape of what a step computes once for all its texts."""
  chunk = min(config.train.loss_chunk, shape.prefix + 1)
  return HeaderShape(shape.prefix, chunk)


def own_shape(
  config: config_lib.Config, net: arguments.Network, own: own_step.OwnStep
) -> TrainShape:
  """Returns the shape of a micro-batch of a task's own.

  Args:
    config: section train.
    net: for the rows of a device.
    own: the step.
  """
  rows, length = own.largest["tokens"].shape
  here = max(1, rows // sharding.batch_size_unit(net.mesh))
  chunk = min(length, max(1, config.train.loss_chunk // here))
  texts = own.tokens // max(config.train.batch_size, 1)
  return TrainShape(rows, length, chunk, own.prefix, texts)


@dataclasses.dataclass(frozen=True)
class Train:
  """Programs of an optimizer step.

  Attributes:
    accumulate: of a micro-batch.
    apply: of the optimizer.
    header: its opening and closing, or ().
    coupling: reading a micro-batch for what its vectors are, and their loss,
      or ().
  """

  accumulate: compiling.Program
  apply: compiling.Program
  header: tuple[compiling.Program, ...]
  coupling: tuple[compiling.Program, ...]


def train(
  net: arguments.Network,
  config: config_lib.Config,
  shape: TrainShape,
  own: own_step.OwnStep | None = None,
  tables: int = 0,
) -> Train:
  """Returns the programs of an optimizer step.

  Args:
    net: the network.
    config: sections train and lora.
    shape: of a micro-batch.
    own: the task's first step; None = a step of plain texts.
    tables: bytes of a device that are kept beside, and no program is given.
  """
  return _Step(net, config, shape, own, tables).programs()


class _Step:
  """What the programs of a step have in common."""

  def __init__(
    self,
    net: arguments.Network,
    config: config_lib.Config,
    shape: TrainShape,
    own: own_step.OwnStep | None,
    tables: int,
  ):
    self._net, self._config, self._shape = net, config, shape
    self._tables = tables
    self._whole = sharding.replicated(net.mesh)
    self._scalar = self._array((), np.int32)
    self._rate = self._array((), np.float32)
    objective = objective_lib.LanguageModelling() if own is None else own.loss
    self._objective: objective_lib.Objective = objective
    self._params, self._base = net.adapter, net.base
    if own is not None and own.weights is not None:
      weights = own.weights.abstract(net.mesh)
      self._params = own_weights.Trained(net.adapter, weights)
    if objective.tables:
      tree = jax.tree.map(np.asarray, dict(objective.tables))
      placed = arguments.place(tree, self._whole)
      self._base = objective_lib.Told(net.base, placed)
    dropout_seed = 0 if config.lora.dropout else None
    about = net.model, config.train, net.mesh, self._params
    self._steps = trainer.make_steps(*about, dropout_seed, objective)
    self._state, self._sums = self._states()
    self._batch = self._rows(own)
    self._header = None
    self._tokens = self._array((shape.prefix + 1,), np.int32)
    if shape.prefix:
      given = self._state, self._base, self._tokens
      opened = jax.eval_shape(self._steps.open_header, *given)
      self._header = arguments.place(opened, self._whole)

  def _array(
    self,
    shape: tuple[int, ...],
    dtype: Any,
    placed: NamedSharding | None = None,
  ) -> Any:
    return arguments.array(shape, dtype, placed or self._whole)

  def _states(self) -> tuple[state_lib.TrainState, state_lib.Sums]:
    """Returns what a step changes, and what its micro-batches add up."""
    params, scalar, rate = self._params, self._scalar, self._rate
    moments = optimizer.AdamState(mu=params, nu=params)
    if isinstance(params, own_weights.Trained):
      moments = optimizer.OwnAdamState(mu=params, nu=params, own_steps=scalar)
    state = state_lib.TrainState(scalar, params, moments)
    if isinstance(self._objective, objective_lib.Adaptive):
      told = dict.fromkeys(self._objective.start(), rate)
      state = state_lib.AdaptiveState(scalar, params, moments, told)
    extras = dict.fromkeys(self._objective.extras, rate)
    return state, state_lib.Sums(params, rate, scalar, scalar, extras)

  def _rows(self, own: own_step.OwnStep | None) -> dict[str, Any]:
    """Returns a micro-batch."""
    split = sharding.batch_sharding(self._net.mesh)
    if own is None:
      size = self._shape.rows, self._shape.length
      return dict.fromkeys(_BATCH, self._array(size, np.int32, split))
    return {
      name: self._array(found.shape, found.dtype, split)
      for name, found in own.largest.items()
      if name not in packing.ROWLESS
    }

  def programs(self) -> Train:
    """Returns all of them."""
    coupling, told = self._coupling()
    rows = {**self._batch, **told}
    given = self._sums, self._state, self._base
    accumulate = self._program(
      "accumulate",
      lambda: self._steps.accumulate.lower(*given, rows, self._header),
      ["moments"],
      self._loops(self._shape.length, self._shape.chunk),
    )
    apply = self._program(
      "apply",
      lambda: self._steps.apply.lower(self._state, self._sums, self._rate),
      ["base"],
      {},
    )
    return Train(accumulate, apply, self._of_header(), coupling)

  def _of_header(self) -> tuple[compiling.Program, ...]:
    if self._header is None:
      return ()
    given = self._state, self._base, self._tokens
    chunk = header_shape(self._config, self._shape).chunk
    opens = self._program(
      "open header",
      lambda: self._steps.open_header.lower(*given),
      ["moments", "sums"],
      arguments.layer_loops(self._net),
    )
    closes = self._program(
      "close header",
      lambda: self._steps.close_header.lower(
        self._sums, *given, self._tokens, self._header
      ),
      ["moments", "prefix"],
      self._loops(self._shape.prefix, chunk),
    )
    return opens, closes

  def _coupling(
    self,
  ) -> tuple[tuple[compiling.Program, ...], Mapping[str, Any]]:
    """Returns its programs, and what micro-batches are told of them."""
    found, objective = self._steps.coupling, self._objective
    if found is None or not isinstance(objective, coupled.Coupled):
      return (), {}
    size = objective.num_pools, self._net.model.config.hidden_size
    pools = arguments.place(jax.eval_shape(found.empty), self._whole)
    mask = () if self._header is None else (self._header, self._tokens)
    given = self._state, self._base, self._batch
    pool = self._program(
      "pool",
      lambda: found.pool.lower(pools, *given, *mask),
      ["moments", "sums"],
      arguments.layer_loops(self._net),
    )
    couple = self._program(
      "couple",
      lambda: found.couple.lower(self._sums, pools),
      ["params", "moments", "base"],
      {},
    )
    return (pool, couple), {coupled.PULL: self._array(size, np.float32)}

  def _program(
    self,
    name: str,
    lower: _Lower,
    elsewhere: Sequence[str],
    loops: Mapping[str, int],
  ) -> compiling.Program:
    """Returns a program.

    Args:
      name: of it.
      lower: as `compiling.Program` has it.
      elsewhere: what it isn't given and stays in memory.
      loops: as there.
    """
    trees = {
      "params": self._params,
      "moments": self._state.moments,
      "sums": self._sums,
      "base": self._base,
      "prefix": self._header and self._header.prefix,
    }
    # Arguments that a program does not use are dropped, but stay in memory.
    kept = sum(arguments.device_bytes(trees[one]) for one in elsewhere)
    return compiling.Program(
      f"train: {name}", lower, self._tables + kept, loops
    )

  def _loops(self, length: int, chunk: int) -> dict[str, int]:
    turns = {"cross_entropy)/while": -(-length // chunk)}
    return arguments.layer_loops(self._net) | turns
