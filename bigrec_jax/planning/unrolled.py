"""XLA's own count of FLOPs, of layers that are not in a loop.

XLA counts a loop's body once. So the gradient of one and of two unrolled
layers is lowered (not compiled) for one device, with all logits in one chunk
and plain attention; the difference is a layer, the rest is head and loss. It
holds elementwise work and both halves of the attention square, which the
formulas of `work` leave out or count once: compare it with them for the same
attention.
"""

import dataclasses

import jax
from jax.sharding import Mesh

from bigrec_jax import config as config_lib, sharding
from bigrec_jax.models.config import LlamaConfig
from bigrec_jax.planning import arguments, programs


def accumulate_flops(
  arch: LlamaConfig, config: config_lib.Config, rows: int
) -> float:
  """Returns XLA's FLOPs of one micro-batch, extrapolated from 1 and 2 layers.

  Args:
    arch: the base's shape.
    config: of the run.
    rows: R.
  """
  mesh = sharding.make_mesh(
    config_lib.MeshConfig(1, 1, 1), jax.devices("cpu")[:1]
  )
  one, two = (_lowered(arch, config, rows, mesh, n) for n in (1, 2))
  return one + (arch.num_hidden_layers - 1) * (two - one)


def _lowered(
  arch: LlamaConfig,
  config: config_lib.Config,
  rows: int,
  mesh: Mesh,
  layers: int,
) -> float:
  config = dataclasses.replace(
    config,
    model=dataclasses.replace(
      config.model, attention="xla", scan_layers=False, quantization="none"
    ),
    train=dataclasses.replace(
      config.train, loss_chunk=rows * config.train.max_length
    ),
  )
  arch = dataclasses.replace(arch, num_hidden_layers=layers)
  net = arguments.network(arch, config, mesh)
  accumulate, _ = programs.train(net, config, rows)
  return float(accumulate.lower().cost_analysis()["flops"])
