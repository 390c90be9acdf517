"""The networks by name, with the item table that turns states into scores."""

from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bigrec_jax.cf import caser, gru4rec, layers, sasrec
from bigrec_jax.cf.spec import NetworkSpec

Params = Any

# Mesh axes that split the rows of item tables. The "data" axis holds copies:
# a step touches a few thousand rows, so fetching them would cost more than
# the memory is worth. Large catalogues take mesh.fsdp or mesh.tensor.
TABLE_AXES = ("fsdp", "tensor")
_TABLES = ("items", "head", "head_bias")

NETWORKS: dict[str, type[nn.Module]] = {
  "gru4rec": gru4rec.Gru4Rec,
  "caser": caser.Caser,
  "sasrec": sasrec.SasRec,
}


class Head(NamedTuple):
  """Scores items: state . kernel[i] + bias[i].

  Attributes:
    kernel: [rows, D] float32.
    bias: [rows] float32.
  """

  kernel: jax.Array
  bias: jax.Array


def table_shards(mesh: Mesh) -> int:
  """Returns over how many devices the rows of a table are split."""
  return mesh.shape["fsdp"] * mesh.shape["tensor"]


def init(spec: NetworkSpec, seed: int) -> Params:
  """Returns the parameters of one seed, float32 arrays.

  The network's own under "network"; an untied head beside it as "head"
  [rows, D'] and "head_bias" [rows].
  """
  net_key, kernel_key, bias_key = jax.random.split(jax.random.key(seed), 3)
  module: Any = NETWORKS[spec.network](spec)
  shapes = (
    jax.ShapeDtypeStruct((1, spec.max_length), jnp.int32),
    jax.ShapeDtypeStruct((1,), jnp.int32),
  )
  variables = module.lazy_init(net_key, *shapes, None, method="last")
  params = {"network": variables["params"]}
  if not spec.tied:
    width = _head_width(spec)
    uniform = layers.uniform(width)
    params["head"] = uniform(kernel_key, (spec.rows, width))
    params["head_bias"] = uniform(bias_key, (spec.rows,))
  return jax.tree.map(np.asarray, params)


def abstract(spec: NetworkSpec) -> Params:
  """Returns the shapes and types of `init`; no number is drawn."""
  module: Any = NETWORKS[spec.network](spec)
  tokens = jax.ShapeDtypeStruct((1, spec.max_length), jnp.int32)
  length = jax.ShapeDtypeStruct((1,), jnp.int32)
  variables = jax.eval_shape(
    lambda key, *rows: module.init(key, *rows, None, method="last"),
    jax.eval_shape(jax.random.key, 0),
    tokens,
    length,
  )
  params = {"network": variables["params"]}
  if not spec.tied:
    width = _head_width(spec)
    params["head"] = jax.ShapeDtypeStruct((spec.rows, width), jnp.float32)
    params["head_bias"] = jax.ShapeDtypeStruct((spec.rows,), jnp.float32)
  return params


def _head_width(spec: NetworkSpec) -> int:
  """Returns D', the length of the states that an untied head reads."""
  return caser.features(spec) if spec.network == "caser" else spec.hidden_size


def head(spec: NetworkSpec, params: Params) -> Head:
  """Returns the scoring table."""
  if spec.tied:
    table = params["network"]["items"]
    return Head(table, jnp.zeros(table.shape[:1], table.dtype))
  return Head(params["head"], params["head_bias"])


def last_states(
  spec: NetworkSpec,
  params: Params,
  tokens: jax.Array,
  length: jax.Array,
  noise: jax.Array | None,
) -> jax.Array:
  """Returns the state after each history, [B, D].

  Args:
    spec: of the network.
    params: of `init`.
    tokens: [B, T] int32, padded at the right with spec.num_items.
    length: [B] int32.
    noise: seed of dropout; None = off.
  """
  return _apply(spec, params, noise, "last", tokens, length)


def all_states(
  spec: NetworkSpec,
  params: Params,
  tokens: jax.Array,
  positions: jax.Array,
  segments: jax.Array,
  noise: jax.Array | None,
) -> jax.Array:
  """Returns the state after every position, [B, T, D]; see `SasRec`."""
  return _apply(spec, params, noise, "__call__", tokens, positions, segments)


def _apply(
  spec: NetworkSpec,
  params: Params,
  noise: jax.Array | None,
  method: str,
  *inputs: jax.Array,
) -> jax.Array:
  states = NETWORKS[spec.network](spec).apply(
    {"params": params["network"]}, *inputs, noise, method=method
  )
  return cast(jax.Array, states)  # No collection is mutable.


def shardings(params: Params, mesh: Mesh, leading: int) -> Params:
  """Returns the NamedSharding of every leaf: table rows split, the rest whole.

  Args:
    params: parameters, or anything whose leaves are named like them (Adam's
      moments are).
    mesh: the mesh.
    leading: axes before the parameter's own (1 = stacked seeds).
  """

  def one(path: Any, leaf: Any) -> NamedSharding:
    name = path[-1].key if hasattr(path[-1], "key") else ""
    if name in _TABLES and leaf.ndim > leading:
      return NamedSharding(mesh, PartitionSpec(*(None,) * leading, TABLE_AXES))
    return NamedSharding(mesh, PartitionSpec())

  return jax.tree_util.tree_map_with_path(one, params)
