"""XLA's own count of FLOPs, of layers that are not in a loop.

XLA counts a loop's body once. So the gradient of one and of two unrolled
layers is lowered (not compiled) for one device, with all logits in one chunk
and plain attention; the difference is a layer, the rest is head and loss. It
holds elementwise work and both halves of the attention square, which the
formulas of `work` leave out or count once: compare it with them for the same
attention.
"""

import dataclasses
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from bigrec_jax import config as config_lib
from bigrec_jax.devices import sharding
from bigrec_jax.models import Architecture
from bigrec_jax.planning import (
  arguments,
  compiling,
  own_step,
  step_programs,
)


def accumulate_flops(
  arch: Architecture, config: config_lib.Config, shape: step_programs.TrainShape
) -> float:
  """Returns XLA's FLOPs of one micro-batch, extrapolated from 1 and 2 layers.

  Args:
    arch: the base's shape.
    config: of the run.
    shape: of the micro-batch.
  """
  return _extrapolated(arch, config, shape, lambda made: (made.accumulate,))


def header_flops(
  arch: Architecture, config: config_lib.Config, shape: step_programs.TrainShape
) -> float:
  """As `accumulate_flops`, of opening and closing the header."""
  return _extrapolated(arch, config, shape, lambda made: made.header)


def own_flops(
  arch: Architecture,
  config: config_lib.Config,
  shape: step_programs.TrainShape,
  own: own_step.OwnStep,
) -> tuple[float, ...]:
  """Returns XLA's FLOPs of a task's own micro-batch, and of its coupling.

  Of the whole network, since a task may run its layers in parts.

  Args:
    arch: the base's shape.
    config: of the run.
    shape: of the micro-batch.
    own: the task's first step.
  """
  plain, mesh = _plainly(config, shape, own.places)
  net = arguments.network(arch, plain, mesh)
  made = step_programs.train(net, plain, shape, own)
  return tuple(map(_flops, (made.accumulate, *made.coupling)))


def _plainly(
  config: config_lib.Config, shape: step_programs.TrainShape, places: int = 0
) -> tuple[config_lib.Config, Mesh]:
  """Returns the configuration without loops, and one device.

  Args:
    config: of the run.
    shape: of the micro-batch.
    places: for tokens of a row, where they may be more than a text's.
  """
  mesh = sharding.make_mesh(
    config_lib.MeshConfig(1, 1, 1), jax.devices("cpu")[:1]
  )
  config = dataclasses.replace(
    config,
    model=dataclasses.replace(
      config.model, attention="xla", scan_layers=False, quantization="none"
    ),
    train=dataclasses.replace(
      config.train,
      loss_chunk=shape.rows * max(config.train.max_length, places),
    ),
  )
  return config, mesh


def _extrapolated(
  arch: Architecture,
  config: config_lib.Config,
  shape: step_programs.TrainShape,
  chosen: Callable[[step_programs.Train], tuple[compiling.Program, ...]],
) -> float:
  config, mesh = _plainly(config, shape)

  def flops(layers: int) -> float:
    cut = dataclasses.replace(arch, num_hidden_layers=layers)
    net = arguments.network(cut, config, mesh)
    made = chosen(step_programs.train(net, config, shape))
    return sum(_flops(program) for program in made)

  one, two = flops(1), flops(2)
  return one + (arch.num_hidden_layers - 1) * (two - one)


def _flops(program: compiling.Program) -> float:
  cost = program.lower().cost_analysis()
  if cost is None:
    raise ValueError(f"{program.name}: XLA counts nothing here")
  return float(cost["flops"])
