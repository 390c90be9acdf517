"""The device mesh, logical axis names and the rules that map one to other.

Every parameter and activation names its axes by meaning ("embed", "heads");
`RULES` alone says over which mesh axes a meaning is split. Changing the
parallelism is changing the mesh or this table, never the network.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bigrec_jax import errors
from bigrec_jax.config import MeshConfig

MESH_AXES = ("data", "fsdp", "tensor")

# Meaning of an axis -> mesh axes it is split over (none = on every device).
RULES: dict[str, tuple[str, ...]] = {
  # Activations.
  "batch": ("data", "fsdp"),
  "length": (),
  "width": (),  # Of activations; weights say "embed".
  "head_dim": (),
  # Weights.
  "layers": (),
  "embed": ("fsdp",),
  "vocab": ("tensor",),
  "heads": ("tensor",),
  "kv_heads": ("tensor",),
  "mlp": ("tensor",),
  "norm": (),
  "rank": (),
  # Rows of the item catalogue.
  "items": ("data", "fsdp", "tensor"),
}


@dataclasses.dataclass(frozen=True)
class Axes:
  """The logical axes of one array.

  Attributes:
    names: one logical name per dimension; "" = never split.
    units: how many indivisible pieces each dimension has. A projection onto
      N heads of size H has N of them, though its dimension is N * H: a head
      cut in two would cost a collective inside attention.
  """

  names: tuple[str, ...]
  units: tuple[int, ...]


def make_mesh(
  config: MeshConfig, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Returns the mesh (data, fsdp, tensor) over all devices.

  Args:
    config: axis sizes; -1 takes what the others leave.
    devices: those to use; all of the process group if None.

  Raises:
    UserError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [config.data, config.fsdp, config.tensor]
  known = math.prod(size for size in sizes if size != -1)
  if -1 in sizes and len(devices) % known == 0:
    sizes[sizes.index(-1)] = len(devices) // known
  if math.prod(sizes) != len(devices):
    raise errors.UserError(
      f"config.mesh: data {config.data}, fsdp {config.fsdp}, tensor"
      f" {config.tensor} found, sizes whose product is the number of devices"
      f" {len(devices)} expected"
    )
  return jax.make_mesh(
    tuple(sizes),
    MESH_AXES,
    axis_types=(AxisType.Auto,) * len(MESH_AXES),
    devices=devices,
  )


def single_device_mesh() -> Mesh:
  """Returns the mesh of the first local device, for tests and tools."""
  return make_mesh(MeshConfig(1, 1, 1), jax.local_devices()[:1])


@functools.cache
def _warn_replicated(name: str, units: int, axes: tuple[str, ...], size: int):
  # Cached, so that 32 layers do not repeat the line 32 times.
  logging.warning(
    "axis %r of %d pieces does not divide over mesh axes %s of size %d: kept"
    " whole on every device",
    name,
    units,
    axes,
    size,
  )


def _mesh_axes(name: str, units: int, mesh: Mesh, warn: bool) -> Any:
  """Returns the PartitionSpec entry of one dimension."""
  if not name:
    return None
  if name not in RULES:
    raise ValueError(f"no sharding rule covers logical axis {name!r}")
  axes = tuple(axis for axis in RULES[name] if mesh.shape[axis] > 1)
  size = math.prod(mesh.shape[axis] for axis in axes)
  if not axes:
    return None
  if units % size:
    if warn:
      _warn_replicated(name, units, axes, size)
    return None
  return axes if len(axes) > 1 else axes[0]


def spec_for(axes: Axes, mesh: Mesh) -> PartitionSpec:
  """Returns the PartitionSpec of an array.

  A dimension whose pieces do not divide over its mesh axes stays whole on
  every device (logged once), so that tiny models run on any mesh.

  Raises:
    ValueError: a logical name has no rule, or two dimensions claim one mesh
      axis.
  """
  entries = [
    _mesh_axes(name, units, mesh, warn=True)
    for name, units in zip(axes.names, axes.units, strict=True)
  ]
  used = [
    axis
    for entry in entries
    if entry is not None
    for axis in ((entry,) if isinstance(entry, str) else entry)
  ]
  if len(used) != len(set(used)):
    raise ValueError(f"logical axes {axes.names} claim one mesh axis twice")
  return PartitionSpec(*entries)


def shardings_for(axes_tree: Any, mesh: Mesh) -> Any:
  """Maps a tree of `Axes` to the tree of NamedShardings.

  Raises:
    ValueError: a leaf is no `Axes`, or no rule covers it.
  """

  def one(path, axes):
    if not isinstance(axes, Axes):
      raise ValueError(f"{jax.tree_util.keystr(path)}: no logical axes")
    return NamedSharding(mesh, spec_for(axes, mesh))

  return jax.tree_util.tree_map_with_path(
    one, axes_tree, is_leaf=lambda x: x is None or isinstance(x, Axes)
  )


def activation_spec(
  mesh: Mesh, names: tuple[str, ...], shape: tuple[int, ...]
) -> PartitionSpec:
  """Returns how an activation is split; what does not divide stays whole."""
  return PartitionSpec(
    *(
      _mesh_axes(name, size, mesh, warn=False)
      for name, size in zip(names, shape, strict=True)
    )
  )


def constrain(
  x: jax.Array, mesh: Mesh | None, names: tuple[str, ...]
) -> jax.Array:
  """Fixes how an activation is split; the identity on one device.

  Args:
    x: inside jit.
    mesh: None = leave the choice to the compiler.
    names: one logical name per dimension. A dimension that does not divide
      is left whole.
  """
  if mesh is None or mesh.size == 1:
    return x
  spec = activation_spec(mesh, names, x.shape)
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def batch_size_unit(mesh: Mesh) -> int:
  """Returns the number of row shards: batches are multiples of it."""
  return math.prod(mesh.shape[axis] for axis in RULES["batch"])


def check_batch(mesh: Mesh, rows: int, key: str) -> None:
  """Raises UserError if `rows` do not divide over the mesh's row shards."""
  unit = batch_size_unit(mesh)
  if rows % unit:
    raise errors.UserError(
      f"{key}: {rows} found, a multiple of mesh.data x mesh.fsdp = {unit}"
      " expected"
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays whose first axis is the batch."""
  return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def put_batch(mesh: Mesh, tree: Any) -> Any:
  """Puts host arrays on the mesh, rows split over data and fsdp.

  Args:
    mesh: the mesh.
    tree: numpy arrays [rows, ...]. With several processes each gives its own
      rows, in process order, and the result holds them all.

  Raises:
    ValueError: rows do not divide over the mesh (see `check_batch`).
  """
  sharding = batch_sharding(mesh)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)),
    tree,
  )


def put_replicated(mesh: Mesh, tree: Any) -> Any:
  """Puts host arrays, equal on every process, whole on every device.

  What already lies there so stays where it is.
  """
  sharding = replicated(mesh)

  def put(x: Any) -> jax.Array:
    if isinstance(x, jax.Array) and x.sharding == sharding:
      return x
    return jax.make_array_from_process_local_data(
      sharding, np.asarray(x), np.shape(x)
    )

  return jax.tree.map(put, tree)


def to_host(x: Any) -> np.ndarray:
  """Returns a whole array on the host; all processes have to ask for it."""
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    if x.is_fully_replicated:
      return np.asarray(x.addressable_data(0))
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))
  return np.asarray(x)
