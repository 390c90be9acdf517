"""One table of a model's weights: name, shape, axes, Hugging Face name.

Initial values, shardings, import and export all read this table, so that a
weight cannot be known to one and not to the others.
"""

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigrec_jax.devices import sharding
from bigrec_jax.devices.sharding import Axes
from bigrec_jax.models import quantize


@dataclasses.dataclass(frozen=True)
class Entry:
  """One weight (of one layer, where `layered`).

  Attributes:
    path: names in the parameter tree, below `layers` where layered.
    hf_name: name in a Hugging Face checkpoint; `{layer}` where layered.
    shape: of one layer.
    axes: logical axes of one layer.
    transpose: Hugging Face stores it as [out, in].
    layered: one per layer.
    kind: `kernel` (of a linear layer: may be quantised), `embedding`, `head`,
      `scale`, `bias` or `lora`.
  """

  path: tuple[str, ...]
  hf_name: str
  shape: tuple[int, ...]
  axes: Axes
  transpose: bool
  layered: bool
  kind: str


def build_tree(
  entries: tuple[Entry, ...],
  num_layers: int,
  scan_layers: bool,
  make: Callable[[Entry, int | None], Any],
) -> dict[str, Any]:
  """Builds a parameter tree from the table.

  Args:
    entries: the weights.
    num_layers: L.
    scan_layers: `layers` with stacked leaves, or `layers_0`, `layers_1`, ...
    make: called with an entry and the layer's number, or None for a weight
      that is stacked or belongs to no layer.

  Returns:
    Nested dicts of what `make` returned.
  """
  tree: dict[str, Any] = {}

  def put(path, value):
    node = tree
    for name in path[:-1]:
      node = node.setdefault(name, {})
    node[path[-1]] = value

  for entry in entries:
    if not entry.layered:
      put(entry.path, make(entry, None))
    elif scan_layers:
      put(("layers", *entry.path), make(entry, None))
    else:
      for layer in range(num_layers):
        put((f"layers_{layer}", *entry.path), make(entry, layer))
  return tree


def layer_range(entry: Entry, layer: int | None, num_layers: int) -> range:
  """Returns the layers that the array which `build_tree` asks for holds."""
  if not entry.layered:
    return range(1)
  return range(num_layers) if layer is None else range(layer, layer + 1)


def abstract_leaf(
  entry: Entry,
  layer: int | None,
  num_layers: int,
  dtype: str,
  mesh: Mesh,
  quantization: str = "none",
) -> Any:
  """Returns shape, dtype and sharding of what `build_tree` asks for.

  Returns:
    A ShapeDtypeStruct, or a quantised leaf of them for kernels.
  """
  kind = quantization if entry.kind == "kernel" else "none"
  stacked = entry.layered and layer is None
  shape = (num_layers, *entry.shape) if stacked else entry.shape
  leaf = jax.eval_shape(
    functools.partial(quantize.quantize, kind=kind),
    jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)),
  )
  return jax.tree.map(
    lambda array, axes: jax.ShapeDtypeStruct(
      array.shape, array.dtype, sharding=sharding.shardings_for(axes, mesh)
    ),
    leaf,
    _full_axes(entry, layer, kind),
  )


def _full_axes(entry: Entry, layer: int | None, quantization: str) -> Any:
  """Logical axes of the array that `build_tree` asks for.

  Returns:
    `Axes`, or a quantised leaf of `Axes`, one for each of its arrays.
  """
  axes = entry.axes
  if quantization == "none":
    return _stacked(axes, entry, layer)
  inputs, outputs = axes.units
  if quantization == "int8":
    scale = Axes(("", axes.names[1]), (1, outputs))
    return quantize.Int8Weight(
      values=_stacked(axes, entry, layer), scale=_stacked(scale, entry, layer)
    )
  # A block of inputs shares a scale, so neither it nor a head may be cut.
  blocks = -(-entry.shape[0] // quantize.BLOCK)
  axes = Axes(axes.names, (math.gcd(inputs, blocks), outputs))
  own = _stacked(axes, entry, layer)
  return quantize.Nf4Weight(values=own, scale=own, rows=entry.shape[0])


def _stacked(axes: Axes, entry: Entry, layer: int | None) -> Any:
  # `Axes`; any, for they also stand where a quantised leaf has its arrays.
  if not entry.layered or layer is not None:
    return axes
  # The layer axis is never split, so its units do not matter.
  return Axes(("layers", *axes.names), (1, *axes.units))


def constant(value: float, leaf: jax.ShapeDtypeStruct) -> jax.Array:
  """Returns an array of one value, each device making its own part."""

  def part(index: tuple[slice, ...]) -> np.ndarray:
    sizes = [
      len(range(*own.indices(size)))
      for own, size in zip(index, leaf.shape, strict=True)
    ]
    return np.full(sizes, value, leaf.dtype)

  # Its stubs know of devices that have no part; under a mesh each has one.
  whole: Any = part
  return jax.make_array_from_callback(leaf.shape, leaf.sharding, whole)


def draw(
  distribution: str,
  scale: float,
  key: jax.Array,
  entry: Entry,
  layers: range,
  abstract: Any,
  quantization: str = "none",
) -> Any:
  """Returns a random weight, equal for stacked and single layers.

  Args:
    distribution: `normal`, or `uniform` on [-1, 1).
    scale: factor on it.
    key: every weight's own key derives from it, its name and its layer.
    entry: the weight.
    layers: numbers of its layers; stacked if there are several or if
      `abstract` is.
    abstract: the wanted ShapeDtypeStruct, or a quantised leaf of them.
    quantization: of the result.
  """
  out = jax.tree.map(lambda leaf: leaf.sharding, abstract)
  dtype = jax.tree.leaves(abstract)[0].dtype
  dtype = jnp.dtype(jnp.float32) if quantization != "none" else dtype
  stacked = len(abstract.shape) > len(entry.shape)
  run = _drawer(distribution, entry.shape, stacked, dtype, quantization, out)
  # A checksum of the name, not a running number: a weight keeps its values
  # when another one is added or left out.
  name = np.uint32(zlib.crc32(entry.hf_name.encode()))
  return run(key, name, np.asarray(layers, np.uint32), np.float32(scale))


@functools.cache
def _drawer(
  distribution: str,
  shape: tuple[int, ...],
  stacked: bool,
  dtype: jnp.dtype,
  quantization: str,
  out: Any,
) -> Callable[..., Any]:
  """Compiles one program per shape, not one for all weights of all layers."""

  def one(key, scale):
    if distribution == "normal":
      value = jax.random.normal(key, shape, jnp.float32)
    else:
      value = jax.random.uniform(key, shape, jnp.float32, -1, 1)
    return quantize.quantize((value * scale).astype(dtype), quantization)

  def run(key, name, layers, scale):
    own = jax.random.fold_in(key, name)
    keys = jax.vmap(functools.partial(jax.random.fold_in, own))(layers)
    if not stacked:
      return one(keys[0], scale)
    return jax.vmap(one, in_axes=(0, None))(keys, scale)

  return jax.jit(run, out_shardings=out)
