"""Layers one by one, or stacked (one array a weight) for a loop over them."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

_UNROLLED_PLATFORM = "cpu"
_MOST_UNROLLED_LAYERS = 40


def stack_layers(tree: dict[str, Any]) -> dict[str, Any]:
  """Turns `layers_0`, `layers_1`, ... into `layers` with a leading axis L."""
  names = [name for name in tree if name.startswith("layers_")]
  rest = {name: value for name, value in tree.items() if name not in names}
  names.sort(key=lambda name: int(name.removeprefix("layers_")))
  rows = [tree[name] for name in names]
  return {**rest, "layers": jax.tree.map(lambda *x: jnp.stack(x), *rows)}


def unstack_layers(tree: dict[str, Any]) -> dict[str, Any]:
  """The inverse of `stack_layers`; cheap inside jit.

  A tree whose layers are apart is returned as it is.
  """
  if "layers" not in tree:
    return tree
  rest = {name: value for name, value in tree.items() if name != "layers"}
  leaves, form = jax.tree.flatten(tree["layers"])
  count = leaves[0].shape[0]
  # Its gradient is one concatenation; that of indexing would be as many sums
  # of padded stacks as there are layers.
  rows = [jax.lax.split(leaf, [1] * count) for leaf in leaves]
  for index in range(count):
    layer = [jnp.squeeze(row[index], 0) for row in rows]
    rest[f"layers_{index}"] = jax.tree.unflatten(form, layer)
  return rest


def take_layers(tree: dict[str, Any], first: int, last: int) -> dict[str, Any]:
  """Returns a tree with the layers from `first` to before `last` alone.

  Args:
    tree: stacked or not; without layers it is returned as it is.
    first: a layer.
    last: a layer, or L.
  """
  if "layers" in tree:
    own = jax.tree.map(lambda x: x[first:last], tree["layers"])
    return {**tree, "layers": own}
  rest = {k: v for k, v in tree.items() if not k.startswith("layers_")}
  if len(rest) < len(tree):
    for place, layer in enumerate(range(first, last)):
      rest[f"layers_{place}"] = tree[f"layers_{layer}"]
  return rest


def is_unrolled(mesh: Mesh, scan_layers: bool, num_layers: int) -> bool:
  """Says whether stacked layers are better run one by one.

  On a CPU a loop over stacked layers copies every layer's weights, caches and
  activations out of and into their stacks (22 % more CPU time a layer of 135 M
  parameters). Very deep networks stay stacked: each layer adds seconds of
  compiling.

  Args:
    mesh: where the network runs.
    scan_layers: whether they are stacked.
    num_layers: L.
  """
  on_cpu = mesh.devices.flat[0].platform == _UNROLLED_PLATFORM
  return scan_layers and on_cpu and num_layers <= _MOST_UNROLLED_LAYERS
