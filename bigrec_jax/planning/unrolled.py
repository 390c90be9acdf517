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

from bigrec_jax import config as config_lib
from bigrec_jax.devices import sharding
from bigrec_jax.models import Architecture
from bigrec_jax.planning import arguments, compiling, programs


def accumulate_flops(
  arch: Architecture, config: config_lib.Config, shape: programs.TrainShape
) -> float:
  """Returns XLA's FLOPs of one micro-batch, extrapolated from 1 and 2 layers.

  Args:
    arch: the base's shape.
    config: of the run.
    shape: of the micro-batch.
  """
  return _extrapolated(arch, config, shape, lambda made: (made.accumulate,))


def header_flops(
  arch: Architecture, config: config_lib.Config, shape: programs.TrainShape
) -> float:
  """As `accumulate_flops`, of opening and closing the header."""
  return _extrapolated(arch, config, shape, lambda made: made.header)


def _extrapolated(
  arch: Architecture,
  config: config_lib.Config,
  shape: programs.TrainShape,
  chosen: Callable[[programs.Train], tuple[compiling.Program, ...]],
) -> float:
  mesh = sharding.make_mesh(
    config_lib.MeshConfig(1, 1, 1), jax.devices("cpu")[:1]
  )
  config = dataclasses.replace(
    config,
    model=dataclasses.replace(
      config.model, attention="xla", scan_layers=False, quantization="none"
    ),
    train=dataclasses.replace(
      config.train, loss_chunk=shape.rows * config.train.max_length
    ),
  )

  def flops(layers: int) -> float:
    cut = dataclasses.replace(arch, num_hidden_layers=layers)
    net = arguments.network(cut, config, mesh)
    made = chosen(programs.train(net, config, shape))
    return sum(_flops(program) for program in made)

  one, two = flops(1), flops(2)
  return one + (arch.num_hidden_layers - 1) * (two - one)


def _flops(program: compiling.Program) -> float:
  cost = program.lower().cost_analysis()
  if cost is None:
    raise ValueError(f"{program.name}: XLA counts nothing here")
  return float(cost["flops"])
