"""Which meshes a number of devices makes."""

import math
from collections.abc import Sequence

import jax
from jax.sharding import Mesh

from bigrec_jax.config import MeshConfig
from bigrec_jax.devices import sharding

# Of the check's network: more devices could not share its heads.
_MOST_TENSOR = 8


def of_count(
  devices: int, most_tensor: int = _MOST_TENSOR
) -> dict[str, MeshConfig]:
  """Returns the meshes of some devices by name; none of a single device.

  Args:
    devices: of all processes.
    most_tensor: what the size of the axis tensor divides.
  """
  if devices == 1:
    return {}
  found = {
    "data": MeshConfig(devices, 1, 1),
    "fsdp": MeshConfig(1, devices, 1),
  }
  tensor = math.gcd(devices, most_tensor)
  if tensor > 1:
    found["tensor"] = MeshConfig(devices // tensor, 1, tensor)
  if devices % 4 == 0:
    found["mixed"] = MeshConfig(devices // 4, 2, 2)
  return found


def make(
  devices: Sequence[jax.Device], own: MeshConfig | None
) -> dict[str, Mesh]:
  """Returns the meshes of all devices by name.

  Args:
    devices: of all processes.
    own: the configuration's, which comes last unless it is one of the others.

  Raises:
    UserError: the configuration's does not fit the devices.
  """
  most_tensor = _MOST_TENSOR
  if devices[0].platform == "cpu":
    # Gloo, which joins processes of CPUs, takes one sum for another where a
    # program has several under way, as a tensor axis over processes does.
    most_tensor = math.gcd(_MOST_TENSOR, jax.local_device_count())
  meshes = {
    name: sharding.make_mesh(sizes, devices)
    for name, sizes in of_count(len(devices), most_tensor).items()
  }
  if own is not None:
    mesh = sharding.make_mesh(own, devices)
    known = [dict(each.shape) for each in meshes.values()]
    if mesh.size > 1 and dict(mesh.shape) not in known:
      meshes["config"] = mesh
  return meshes


def one() -> Mesh:
  """Returns the mesh of one device of this process."""
  return sharding.single_device_mesh()
