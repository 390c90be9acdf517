"""The same small job on every mesh of this machine, and compared.

For whoever is about to pay for a long one. Nothing of the configuration's data
or model is read, only `mesh`, which is one of the meshes compared, and `seed`.
"""

import os
import pathlib
import time
from typing import TYPE_CHECKING

from bigrec_jax import config as config_lib
from bigrec_jax.stages.session import Asked, say
from bigrec_jax.workdir import paths as paths_lib, processes, storage

if TYPE_CHECKING:
  from bigrec_jax.selfcheck import comparison

SCHEMA = 1
# Matrix products in full float32: a TPU's default is bfloat16, a GPU's TF32,
# and what is compared is meshes.
_PRECISION = "highest"


def run(
  config: config_lib.Config, workdir: pathlib.Path, asked: Asked | None = None
) -> int:
  """Prints a table, writes selfcheck.json; returns the exit status.

  That is 0 where all agrees, 1 where something differs or can't be written.

  Raises:
    UserError: the devices do not make the configuration's mesh.
  """
  paths = paths_lib.Paths(workdir)
  if asked is not None and asked.dry_run:
    say(
      "selfcheck: would train, decode, embed and rank a made-up store on every"
      f" mesh of this machine's devices and write {paths.selfcheck}"
    )
    return 0
  import jax

  from bigrec_jax.selfcheck import comparison, surroundings

  begin = time.monotonic()
  rows = _folders(workdir)
  # Of this thread alone, and only a CPU, which has no other, uses more.
  with jax.default_matmul_precision(_PRECISION):
    forced, found = _compare(config)
  rows += found
  devices = surroundings.devices()
  where = surroundings.describe(devices)
  if forced:
    where += f", one device: the meshes are of {forced} forced CPU devices"
  say(comparison.render(rows))
  say(f"selfcheck: memory: {surroundings.memory(devices)}")
  agree = all(row.agrees for row in rows)
  result = {
    "schema": SCHEMA,
    "agree": agree,
    "versions": surroundings.versions(),
    "devices": devices,
    "forced_cpu_devices": forced,
    "seconds": round(time.monotonic() - begin, 1),
    "rows": [row.to_json() for row in rows],
  }
  if not rows[0].problem:
    processes.on_first(lambda: storage.write_json(paths.selfcheck, result))
    say(f"selfcheck: written to {paths.selfcheck}")
  say(comparison.verdict(rows, where))
  return 0 if agree else 1


def _folders(workdir: pathlib.Path) -> "list[comparison.Row]":
  """Returns a row for each folder that a job writes to, the workdir first."""
  from bigrec_jax.selfcheck import surroundings

  rows = [surroundings.folder("workdir", workdir, shared=True)]
  cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
  if cache and "://" not in cache:
    path = pathlib.Path(cache)
    rows.append(surroundings.folder("compilation cache", path, shared=False))
  return rows


def _compare(
  config: config_lib.Config,
) -> "tuple[int, list[comparison.Row]]":
  """Returns how many CPU devices were forced, 0 for none, and the rows."""
  import jax

  from bigrec_jax.selfcheck import child, run as run_lib, world

  if jax.device_count() > 1:
    return 0, run_lib.here(config, config.mesh)
  device, found = jax.devices()[0], None
  if device.platform != "cpu":
    found = run_lib.on_one(world.World(config, child.DEVICES))
  say(
    f"selfcheck: one device ({device.device_kind}): the meshes are compared in"
    f" another process, on {child.DEVICES} forced CPU devices"
  )
  rows = child.run(config.to_dict(), found, device.device_kind)
  return child.DEVICES, rows
