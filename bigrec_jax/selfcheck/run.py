"""Runs all checks on all meshes and compares them with one device."""

import time
from collections.abc import Iterator, Mapping

import jax
from absl import logging
from jax.sharding import Mesh

from bigrec_jax import config as config_lib, errors
from bigrec_jax.selfcheck import comparison, meshes, programs, world
from bigrec_jax.workdir import processes

# What a device of another kind may differ by: another chip's exponentials and
# sums; texts, items and ranks have to be the same all the same.
BETWEEN_KINDS = 1e-3


def label(name: str, mesh: Mesh) -> str:
  """Returns a mesh in words, e.g. "fsdp 1x8x1"."""
  return f"{name} {'x'.join(str(size) for size in mesh.shape.values())}"


def on_one(made: world.World) -> dict[str, programs.Arrays]:
  """Returns what each check gives on one device of this process."""
  logging.info("selfcheck: one device")
  mesh = meshes.one()
  return {check.name: check.run(made, mesh) for check in programs.CHECKS}


def on_meshes(
  made: world.World,
  places: Mapping[str, Mesh],
  expected: Mapping[str, programs.Arrays],
) -> Iterator[comparison.Row]:
  """Yields a row for each check on each mesh.

  What is rough as well as slow to compile runs on the last mesh alone.

  Args:
    made: what is computed with.
    places: meshes by name.
    expected: by `on_one`.
  """
  for name, mesh in places.items():
    logging.info("selfcheck: mesh %s", label(name, mesh))
    last = name == list(places)[-1]
    for check in programs.CHECKS:
      if check.everywhere or last:
        yield _row(made, name, mesh, check, expected[check.name])


def _row(
  made: world.World,
  name: str,
  mesh: Mesh,
  check: programs.Check,
  expected: programs.Arrays,
) -> comparison.Row:
  # All at once: gloo gives up on a process that is half a minute late.
  processes.agree(lambda: True)
  begin = time.monotonic()
  apart: dict[str, float | None] = {}
  allowed, problem = dict(check.tolerances), ""
  try:
    found = check.run(made, mesh)
    apart, allowed = comparison.compare(found, expected, check.tolerances)
  except errors.Interrupted:
    raise
  except Exception as error:  # Whatever a broken driver or network raises.
    if processes.joined():
      raise  # The others wait within this very program.
    logging.exception("selfcheck: %s on %s", check.name, name)
    lines = str(error).strip().splitlines() or [""]
    problem = errors.one_line(f"{type(error).__name__}: {lines[0]}")
  seconds = time.monotonic() - begin
  where = label(name, mesh)
  return comparison.Row(
    check.name, where, mesh.size, apart, allowed, seconds, problem
  )


def between_kinds(
  found: Mapping[str, programs.Arrays],
  expected: Mapping[str, programs.Arrays],
  name: str,
) -> Iterator[comparison.Row]:
  """Yields a row for each check on one device of another kind.

  Args:
    found: by `on_one`, on that device.
    expected: by `on_one`, on a CPU.
    name: of the device.
  """
  for check in programs.CHECKS:
    apart, allowed = comparison.compare(
      found[check.name], expected[check.name], check.tolerances, BETWEEN_KINDS
    )
    yield comparison.Row(check.name, name, 1, apart, allowed, 0.0)


def here(
  config: config_lib.Config, own: config_lib.MeshConfig | None
) -> list[comparison.Row]:
  """Returns the rows of all meshes of the devices that JAX sees.

  Args:
    config: of the program.
    own: a mesh beside the usual ones, or None.

  Raises:
    UserError: the devices do not make that mesh.
  """
  places = meshes.make(jax.devices(), own)
  made = world.World(config, jax.device_count())
  return list(on_meshes(made, places, on_one(made)))
