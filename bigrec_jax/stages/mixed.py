"""The prepared data of other workdirs, trained on beside a workdir's own.

`train.also` names them, with weights (data/text/mixture.py). Each keeps its own
catalogue, prompt (or templates of the task) and sample of train rows, as its
workdir remembers them; the task, tokenizer and base are this run's. What is
evaluated is this run's data.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ml_collections

from bigrec_jax import config as config_lib, errors
from bigrec_jax.data.text import mixture, source, tokenization
from bigrec_jax.recommend import loaded
from bigrec_jax.stages.session import Session
from bigrec_jax.tasks import protocol
from bigrec_jax.workdir import fingerprints, paths as paths_lib, settings

if TYPE_CHECKING:
  from jax.sharding import Mesh

Version = Callable[[protocol.Task], protocol.Task]  # Of a task.


class Other(loaded.Loaded):
  """Another workdir's data, under this run's task and tokenizer."""

  def __init__(
    self, config: config_lib.Config, workdir: pathlib.Path, owner: Session
  ):
    super().__init__(config, workdir)
    self._owner = owner

  @functools.cached_property
  def tokenizer(self) -> tokenization.Tokenizer:
    """This run's."""
    return self._owner.tokenizer

  @functools.cached_property
  def mesh(self) -> "Mesh":
    """This run's."""
    return self._owner.mesh


def sets(session: Session) -> list[tuple[Other, float]]:
  """Returns the other workdirs of `train.also`, with their weights.

  Raises:
    UserError: one isn't prepared, or is this run's own; or the task reads
      none.
  """
  found = []
  if session.config.train.mixed and not session.task.mixes:
    raise errors.UserError(
      f"config.train.also: other workdirs found, none expected for task"
      f" {session.task.name}, whose samples are more than texts"
    )
  for folder, weight in session.config.train.mixed:
    root = pathlib.Path(folder)
    if paths_lib.real(root) == paths_lib.real(session.paths.root):
      raise errors.UserError(
        f"config.train.also: {folder} found, which is this workdir; another"
        " one expected"
      )
    paths = paths_lib.Paths(root)
    kept = settings.recall(paths) if paths.manifest.exists() else None
    if kept is None:
      raise errors.UserError(
        f"config.train.also: {folder} found, a workdir expected that"
        " --mode=prepare made"
      )
    theirs = config_lib.from_config_dict(
      ml_collections.ConfigDict(kept["config"])
    )
    own = session.config
    config = dataclasses.replace(
      theirs,
      task=dataclasses.replace(theirs.task, name=own.task.name),
      train=own.train,
      model=own.model,
      lora=own.lora,
    )
    found.append((Other(config, root, session), weight))
  return found


def samples(session: Session, version: Version) -> source.TextSource:
  """Returns the train samples of this run and of `train.also`.

  Args:
    session: of this run.
    version: of the task whose samples they are.
  """
  others = sets(session)
  return mixture.of(
    [
      version(store.task).samples("train")
      for store in (session, *(other for other, _ in others))
    ],
    [1.0, *(weight for _, weight in others)],
    session.config.train.batch_size,
    session.config.seed,
  )


def made_from(session: Session, version: Version) -> dict[str, Any]:
  """Returns what names the samples of `train.also`; {} of none."""
  named = [
    {
      "weight": weight,
      "prompt": other.config.to_dict()["prompt"],
      "catalogue": other.catalogue.fingerprint,
      **version(other.task).made_from("train"),
    }
    for other, weight in sets(session)
  ]
  return {"also": fingerprints.of_value(named)} if named else {}
