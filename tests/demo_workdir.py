"""The tiny demo as a finished workdir, for all tests that read one."""

import pathlib

from bigrec_jax import config as config_lib
from bigrec_jax.workdir import paths, settings
from configs import demo

_GROUND = ("cf_model", "beams", "fusion", "fusion_ablations", "likelihood")


def config(**keys) -> config_lib.Config:
  """Returns the tiny demo's configuration on a mesh of 4 x 2.

  Args:
    **keys: of section `recommend`, or those of section `ground` in `_GROUND`.
  """
  tree = demo.get_config("tiny")
  tree.mesh.data, tree.mesh.fsdp = 4, 2
  for key in _GROUND:
    tree.ground[key] = keys.pop(key, tree.ground[key])
  for key, value in keys.items():
    tree.recommend[key] = value
  return config_lib.from_config_dict(tree)


def make(root: pathlib.Path) -> None:
  """Trains and evaluates the tiny demo in a workdir."""
  from bigrec_jax.stages import ground_eval

  own = config()
  ground_eval.run(own, root)
  settings.remember(paths.Paths(root), own, "demo", {})


def snapshot(root: pathlib.Path) -> dict[str, tuple[int, int]]:
  """Returns {file or folder: (time of its last change, size)}."""
  found = {}
  for path in sorted([root, *root.rglob("*")]):
    state = path.stat()
    found[str(path.relative_to(root))] = state.st_mtime_ns, state.st_size
  return found
