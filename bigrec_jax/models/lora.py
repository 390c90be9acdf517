"""Low-rank adapters (Hu et al. 2021): initial values, counts and merging.

The adapter is a tree of its own, shaped like the base below `layers`, that
holds `lora_a` [D, R] and `lora_b` [R, F] for target modules and nothing else.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bigrec_jax.config import LoraConfig
from bigrec_jax.models import layout, quantize, registry
from bigrec_jax.models.protocol import Architecture


def abstract(
  config: Architecture, lora: LoraConfig, mesh: Mesh, scan_layers: bool = True
) -> dict[str, Any]:
  """Returns the adapter's tree of ShapeDtypeStructs with their shardings.

  Initial values, restoring and ahead-of-time compilation start from it.
  """

  def make(entry, layer):
    return layout.abstract_leaf(
      entry, layer, config.num_hidden_layers, "float32", mesh
    )

  return layout.build_tree(
    registry.lora_entries(config, lora),
    config.num_hidden_layers,
    scan_layers,
    make,
  )


def init(
  config: Architecture,
  lora: LoraConfig,
  seed: int,
  mesh: Mesh,
  scan_layers: bool = True,
) -> dict[str, Any]:
  """Returns a fresh float32 adapter that leaves the base as it is.

  A is Kaiming uniform with slope sqrt(5), that is U(-1/sqrt(D), 1/sqrt(D)),
  and B is zero, as in PEFT. Values do not depend on the mesh.

  Args:
    config: of the base.
    lora: rank and target modules.
    seed: of the random values.
    mesh: where the arrays go.
    scan_layers: stacked layers or one by one.
  """
  key = jax.random.key(seed)

  def make(entry, layer):
    leaf = layout.abstract_leaf(
      entry, layer, config.num_hidden_layers, "float32", mesh
    )
    if entry.path[-1] == "lora_b":
      return layout.constant(0, leaf)
    bound = 1 / math.sqrt(entry.shape[0])
    layers = layout.layer_range(entry, layer, config.num_hidden_layers)
    return layout.draw("uniform", bound, key, entry, layers, leaf)

  return layout.build_tree(
    registry.lora_entries(config, lora),
    config.num_hidden_layers,
    scan_layers,
    make,
  )


def merge(
  params: dict[str, Any], adapter: dict[str, Any], lora: LoraConfig
) -> dict[str, Any]:
  """Returns base weights W + A B alpha / rank, in W's dtype.

  Args:
    params: the base, stacked or not like the adapter. Quantised weights
      become plain ones, in bfloat16.
    adapter: the `lora` tree.
    lora: for alpha and rank.
  """

  def add(weight, own):
    plain = quantize.is_quantized(weight)
    dtype = jnp.bfloat16 if plain else weight.dtype
    update = jnp.matmul(own["lora_a"], own["lora_b"])
    update = update * jnp.float32(lora.alpha / lora.rank)
    wide = quantize.dequantize(weight, jnp.float32)
    return (wide + update).astype(dtype)

  def walk(base, own):
    merged = dict(base)
    for name, value in own.items():
      if "lora_a" in value:
        kernel = add(base[name]["kernel"], value)
        merged[name] = {**base[name], "kernel": kernel}
      else:
        merged[name] = walk(base[name], value)
    return merged

  return walk(params, adapter)


def count(tree: Any) -> int:
  """Returns the number of weights; a quantised matrix counts as its entries."""
  leaves = jax.tree.leaves(tree, is_leaf=quantize.is_quantized)
  return sum(math.prod(leaf.shape) for leaf in leaves)
