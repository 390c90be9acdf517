"""Shapes, dtypes and placements of the arguments that the programs take."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bigrec_jax import config as config_lib, models
from bigrec_jax.devices import sharding
from bigrec_jax.models import hf_import, kv_cache, lora as lora_lib
from bigrec_jax.models.gguf import conversion
from bigrec_jax.workdir import given_models

Tree = Any


@dataclasses.dataclass(frozen=True)
class Network:
  """A network without its weights.

  Attributes:
    model: the Flax module with the adapter's places.
    base: tree of ShapeDtypeStructs with shardings.
    adapter: likewise.
    mesh: of all of them.
  """

  model: models.LanguageModel
  base: Tree
  adapter: Tree
  mesh: Mesh


def read_arch(config: config_lib.Config) -> models.Architecture:
  """Returns the shape of the base: `model.path`/config.json or `model.arch`.

  Raises:
    UserError: the file is missing, or of no family of ours.
  """
  if not config.model.path:
    return models.from_arch(config.model.arch, config.pretrain.vocab_size)
  given_models.check_base(config.model.path)
  path = pathlib.Path(config.model.path)
  if config.model.is_gguf:
    return models.read_architecture(conversion.read_config(path), str(path))
  return models.read_config(path)


def network(
  arch: models.Architecture, config: config_lib.Config, mesh: Mesh
) -> Network:
  """Returns the network of a configuration on a mesh.

  Args:
    arch: the base's shape.
    config: for the sections model and lora.
    mesh: its devices may be there only to compile for.
  """
  model = config.model
  return Network(
    model=models.build(arch, model, config.lora, mesh),
    base=hf_import.abstract_base(
      arch, model.dtype, mesh, model.scan_layers, model.quantization
    ),
    adapter=lora_lib.abstract(arch, config.lora, mesh, model.scan_layers),
    mesh=mesh,
  )


def layer_loops(net: Network) -> dict[str, int]:
  """Returns how often the loop over layers turns, by its name."""
  return {"_run/while": net.model.config.num_hidden_layers}


def array(shape: tuple[int, ...], dtype: Any, placement: NamedSharding) -> Any:
  """Returns an array that isn't there, a ShapeDtypeStruct.

  Of any type to the checker: it stands where programs are given arrays.
  """
  return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=placement)


def place(tree: Tree, placement: NamedSharding) -> Tree:
  """Returns a tree of abstract arrays, placed alike."""
  return jax.tree.map(lambda x: array(x.shape, x.dtype, placement), tree)


def prefix(net: Network, tokens: int) -> kv_cache.PromptCache | None:
  """Returns the cache of what all prompts begin with; None for no token."""
  if not tokens:
    return None
  whole = sharding.replicated(net.mesh)

  def read(variables: Tree, ids: jax.Array) -> kv_cache.PromptCache:
    lengths = jnp.full((1,), tokens, jnp.int32)
    _, cache = net.model.apply(variables, ids, lengths, method="prefill")
    return cache.as_prefix()

  variables = {"params": net.base, "lora": net.adapter}
  ids = array((1, tokens), np.int32, whole)
  return place(jax.eval_shape(read, variables, ids), whole)


def over_items(
  shape: tuple[int, ...], dtype: Any, mesh: Mesh, axis: int = 0
) -> Any:
  """Returns an `array` whose axis `axis` is the item axis."""
  entries = (None,) * axis + (mesh.axis_names,)
  return array(shape, dtype, NamedSharding(mesh, PartitionSpec(*entries)))


def device_bytes(tree: Tree) -> int:
  """Returns the bytes of one device's part of a tree of abstract arrays."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    own = leaf.sharding.shard_shape(leaf.shape)
    total += int(np.prod(own, dtype=np.int64)) * leaf.dtype.itemsize
  return total
