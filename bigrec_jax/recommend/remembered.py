"""The configuration of a workdir, for whoever only reads it."""

import dataclasses

import ml_collections

from bigrec_jax import config as config_lib, errors
from bigrec_jax.workdir import paths as paths_lib, settings


def config(
  paths: paths_lib.Paths,
  injection: str | None,
  gamma: float | None,
  mesh: config_lib.MeshConfig | None,
) -> config_lib.Config:
  """Returns the configuration that a workdir remembers, with these changes.

  Args:
    paths: of the workdir.
    injection: what is injected; None = as remembered.
    gamma: how strongly; None = as remembered.
    mesh: of the devices; None = as remembered.

  Raises:
    UserError: there is no workdir, or it remembers nothing.
  """
  if not paths.root.is_dir():
    raise errors.UserError(f"{paths.root}: no such folder, a workdir expected")
  kept = settings.recall(paths)
  if kept is None:
    raise errors.UserError(
      f"{paths.config}: not found, the configuration that a workdir was made"
      " with expected; a workdir of before version 0.2 gets it by any mode that"
      " makes something, e.g. --mode=embed with its --config"
    )
  own = config_lib.from_config_dict(ml_collections.ConfigDict(kept["config"]))
  recommend = own.recommend
  if injection is not None:
    recommend = dataclasses.replace(
      recommend, injection=injection, gamma="auto"
    )
  if gamma is not None:
    recommend = dataclasses.replace(recommend, gamma=str(gamma))
  return dataclasses.replace(
    own,
    recommend=recommend,
    mesh=mesh or own.mesh,
  )
