"""Base weights and adapters: from Hugging Face files, or fresh ones."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bigrec_jax import sharding
from bigrec_jax.models import layout
from bigrec_jax.models.config import LlamaConfig


def base_shardings(
  config: LlamaConfig, mesh: Mesh, scan_layers: bool = True
) -> dict[str, Any]:
  """Returns the base's tree of NamedShardings (unquantised weights)."""
  axes = layout.build_tree(
    layout.base_entries(config),
    config.num_hidden_layers,
    scan_layers,
    layout.full_axes,
  )
  return sharding.shardings_for(axes, mesh)


def init_base(
  config: LlamaConfig,
  seed: int,
  dtype: str,
  mesh: Mesh,
  scan_layers: bool = True,
) -> dict[str, Any]:
  """Returns random base weights as Hugging Face draws them.

  Matrices are normal with `initializer_range`, norms one, biases zero. Values
  do not depend on the mesh; each device makes its own part.

  Args:
    config: sizes.
    seed: of the random values.
    dtype: `float32` or `bfloat16`.
    mesh: where the arrays go.
    scan_layers: stacked layers or one by one.
  """

  def draw(key, entry):
    if entry.kind == "scale":
      return jnp.ones(entry.shape, dtype)
    if entry.kind == "bias":
      return jnp.zeros(entry.shape, dtype)
    normal = jax.random.normal(key, entry.shape, jnp.float32)
    return (normal * jnp.float32(config.initializer_range)).astype(dtype)

  make = functools.partial(
    layout.draw_tree,
    layout.base_entries(config),
    config.num_hidden_layers,
    scan_layers,
    draw,
  )
  out = base_shardings(config, mesh, scan_layers)
  return jax.jit(make, out_shardings=out)(jax.random.key(seed))
