"""Devices to compile for, without having them: `v5e:2x4`, `h100:8`, `cpu:8`."""

import dataclasses
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from bigrec_jax import errors
from bigrec_jax.config import MeshConfig
from bigrec_jax.devices import sharding
from bigrec_jax.planning import chips

_FORM = re.compile(
  r"(v5e|v5p|v6e):(\d{1,3}(?:x\d{1,3})+)|(cpu|a100|h100|h200):(\d{1,3})"
)
_DIMENSIONS = {"v5e": 2, "v6e": 2, "v5p": 3}
# The slice of `chips.STAND_IN` with as many chips as there are GPUs.
_SLICES = {1: "1x1x1", 2: "1x1x2", 4: "2x2x1", 8: "2x2x2", 16: "2x2x4"}
_HOST = 4  # Chips of a TPU host by default; smaller slices have one host.
_ENVIRONMENT = {
  # libtpu would ask a metadata server what machine it runs on.
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "TPU_WORKER_HOSTNAMES": "localhost",
  # It is only a compiler here: several processes may load it at once.
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_MIN_LOG_LEVEL": "3",
  "TPU_STDERR_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class Target:
  """What a plan is made for.

  Attributes:
    name: the topology as asked for.
    devices: JAX devices; of a TPU topology they can only be compiled for.
    chip: published peaks, None for a CPU.
    compiled_for: the slice whose compiler stands in for a GPU's; "" = its own.
  """

  name: str
  devices: tuple[Any, ...]
  chip: chips.Chip | None
  compiled_for: str = ""


def resolve(name: str) -> Target:
  """Returns the devices of a topology; needs none of them.

  Call it before JAX has started a backend: the process is kept off whatever
  accelerators this machine has.

  Args:
    name: `v5e:2x4`, `v5p:2x2x1`, `v6e:4x4`, `h100:<GPUs>` or `cpu:<devices>`.

  Raises:
    UserError: another form, a slice that does not exist, or libtpu missing.
  """
  match = _FORM.fullmatch(name)
  if match is None:
    raise errors.UserError(
      f"config.plan.topology: {name!r} found, v5e:2x4, v6e:2x4, v5p:2x2x1,"
      " h100:1, h200:1, a100:1 or cpu:8 (other sizes too) expected"
    )
  kind, shape, other, count = match.groups()
  jax.config.update("jax_platforms", "cpu")
  # Programs of devices that are not there cannot be read back from it.
  jax.config.update("jax_enable_compilation_cache", False)
  if other == "cpu":
    return Target(name, _cpu(int(count)), None)
  if other:
    return _gpu(name, other, int(count))
  sizes = [int(size) for size in shape.split("x")]
  if len(sizes) != _DIMENSIONS[kind] or min(sizes) < 1:
    raise errors.UserError(
      f"config.plan.topology: {name} found, {_DIMENSIONS[kind]} sizes after"
      f" {kind}: expected"
    )
  return Target(name, _tpu(name, math.prod(sizes)), chips.CHIPS[kind])


def mesh(config: MeshConfig, target: Target) -> Mesh:
  """Returns the mesh over a target's devices.

  Raises:
    UserError: the sizes do not fit their number, or not the slice's torus.
  """
  try:
    return sharding.make_mesh(config, target.devices)
  except NotImplementedError:  # jax finds no axes of the torus for a size.
    raise errors.UserError(
      f"config.mesh: data {config.data}, fsdp {config.fsdp}, tensor"
      f" {config.tensor} found, sizes that are products of whole axes of"
      f" {target.name} expected"
    ) from None


def _cpu(count: int) -> tuple[Any, ...]:
  if "xla_force_host_platform_device_count" not in os.environ.get(
    "XLA_FLAGS", ""
  ):
    try:
      jax.config.update("jax_num_cpu_devices", max(count, 1))
    except RuntimeError:
      pass  # A backend runs already; the count below decides.
  found = jax.devices("cpu")
  if not 1 <= count <= len(found):
    raise errors.UserError(
      f"config.plan.topology: cpu:{count} found, 1 to {len(found)} devices"
      " expected (XLA_FLAGS sets their number)"
    )
  return tuple(found[:count])


def _gpu(name: str, kind: str, count: int) -> Target:
  if count not in _SLICES:
    raise errors.UserError(
      f"config.plan.topology: {name} found, {', '.join(map(str, _SLICES))} GPUs"
      " expected"
    )
  compiled_for = f"{chips.STAND_IN}:{_SLICES[count]}"
  devices = _tpu(compiled_for, count)
  return Target(name, devices, chips.CHIPS[kind], compiled_for)


def _tpu(name: str, count: int) -> tuple[Any, ...]:
  for key, value in _ENVIRONMENT.items():
    os.environ.setdefault(key, value)
  options = {}
  if count < _HOST:
    sizes = [int(size) for size in name.split(":")[1].split("x")]
    options["chips_per_host_bounds"] = (sizes + [1])[:3]
  try:
    found = topologies.get_topology_desc(name, platform="tpu", **options)
  except jax.errors.JaxRuntimeError as error:
    reason = str(error).splitlines()[0]
    raise errors.UserError(f"config.plan.topology: {name}: {reason}") from None
  except RuntimeError as error:
    if "TPU support not installed" not in str(error):
      raise
    raise errors.UserError(
      f"config.plan.topology: {name} needs the TPU compiler, which is not"
      " installed; pip install 'bigrec_jax[plan]'"
    ) from None
  return tuple(found.devices)
