"""Sections of the configuration for the tests of bigrec_jax.data."""

import pathlib

from bigrec_jax import config
from bigrec_jax.workdir import paths as paths_lib
from configs import common, movie


def sections(
  base: str = "game", **data
) -> tuple[config.DataConfig, config.PromptConfig]:
  """Returns the data and prompt sections with some data keys set."""
  tree = {"game": common, "movie": movie}[base].get_config()
  for key, value in data.items():
    tree.data[key] = str(value) if isinstance(value, pathlib.Path) else value
  tree.data.synthetic.num_users = 60
  tree.data.synthetic.num_items = 160
  built = config.from_config_dict(tree)
  return built.data, built.prompt


def workdir(path: pathlib.Path) -> paths_lib.Paths:
  """Makes a workdir."""
  path.mkdir(parents=True, exist_ok=True)
  return paths_lib.Paths(path)
