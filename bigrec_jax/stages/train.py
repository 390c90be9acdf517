"""LoRA fine-tuning of the base on the train split."""

import dataclasses
import pathlib
from collections.abc import Iterator

from absl import logging

from bigrec_jax import config as config_lib, errors
from bigrec_jax.recommend import adapter_origin
from bigrec_jax.stages import (
  first,
  graph,
  mixed,
  prepare,
  pretrain,
  train_cf,
  tuning,
)
from bigrec_jax.stages.session import Asked, Session, say
from bigrec_jax.workdir import given_models


@dataclasses.dataclass(frozen=True)
class Adapter:
  """A PEFT directory and the name of its content."""

  directory: pathlib.Path
  fingerprint: str


def run(
  config: config_lib.Config, workdir: pathlib.Path, asked: Asked | None = None
) -> None:
  """Trains until `adapter/` holds the best epoch; resumes what was begun.

  Raises:
    UserError: data, base or the adapter to start from cannot be used.
  """
  session = Session(config, workdir, asked)
  session.make(*stages(session))


def stages(session: Session) -> list[graph.Stage]:
  """Returns the stages of training; who asks for it asks for both."""
  return [*([first.STAGE] if first.is_asked_for(session) else []), STAGE]


def needed(session: Session) -> Iterator[graph.Stage]:
  """Yields what whoever decodes needs: base, and the own adapter if used."""
  yield from _needs(session)
  if elsewhere(session) is None:
    yield STAGE


def elsewhere(session: Session) -> pathlib.Path | None:
  """Returns the adapter to decode with; None = the workdir's own.

  One that the command line names is used. Else the workdir's own counts if it
  is of this base, prompt and data: other training options (say, a learning
  rate left out of this command) are told but do not cost hours of training
  again. `train` and `pipeline` are strict. Where there is none that fits,
  `model.adapter` is not only where training would start.
  """
  if session.asked.adapter:
    return pathlib.Path(session.asked.adapter)
  start = session.config.model.adapter
  if not start or session.walk.is_asked(STAGE):
    return None
  return None if session.walk.look(STAGE).is_current else pathlib.Path(start)


def used(session: Session) -> Adapter:
  """Returns the adapter to decode with, which is `needed`."""
  return _adapter(session, elsewhere(session) or session.paths.adapter)


def check_used(session: Session) -> None:
  """Raises UserError where the adapter to decode with can't be one.

  An adapter that a workdir trained knows its base: one of other weights is
  refused, one of the same in another precision is told.
  """
  directory = elsewhere(session)
  if directory is None:
    return
  given_models.check_adapter(str(directory))
  say(f"adapter: {directory}, not the workdir's own")
  _check_origin(session, directory)


def _check_origin(session: Session, directory: pathlib.Path) -> None:
  """Refuses an adapter that is known to be of another base."""
  if not session.config.model.path and not (
    session.walk.look(pretrain.STAGE).is_current
  ):
    return  # There is no base yet.
  if note := adapter_origin.check(session, directory):
    logging.warning("%s", note)


def _adapter(session: Session, directory: pathlib.Path) -> Adapter:
  return Adapter(directory, session.adapter_fingerprint(directory))


def _run(session: Session) -> tuning.Run:
  start = session.config.model.adapter
  two = first.is_asked_for(session)
  folder = first.adapter(session) if two else pathlib.Path(start)
  return tuning.Run(
    name="train",
    task=session.task,
    paths=session.paths,
    start=folder if two or start else None,
    also=None if two else lambda task: task,
  )


def _needed(session: Session) -> Iterator[graph.Stage]:
  yield from _needs(session)
  if first.is_asked_for(session):
    yield first.STAGE


def _inputs(session: Session) -> graph.Inputs:
  run = _run(session)
  start = ""
  if first.is_asked_for(session):
    start = first.fingerprint(session)
  elif run.start is not None:
    start = _adapter(session, run.start).fingerprint
  return tuning.inputs(session, run, start)


def _needs(session: Session) -> Iterator[graph.Stage]:
  """Yields what whoever reads texts needs: base, and its task's CF model."""
  yield from pretrain.needed(session)
  if model := session.task.cf_model:
    yield train_cf.stage(model)


def _check(session: Session) -> None:
  prepare.check_train_rows(session)
  if mixed.sets(session) and not first.is_asked_for(session):
    _check_mixed(session)
  if start := session.config.model.adapter:
    given_models.check_adapter(start)
    _check_origin(session, pathlib.Path(start))


def _check_mixed(session: Session) -> None:
  if session.task.has_own_weights:
    raise errors.UserError(
      "config.train.also: other workdirs found, none expected where texts have"
      " soft tokens, which are this catalogue's; config.train.first.num_epochs"
      " reads them in a stage before"
    )


def _set_aside(session: Session, _: graph.Inputs) -> None:
  tuning.set_aside(session, STAGE.name, session.paths.adapter)


STAGE = graph.Stage(
  name="adapter",
  mode="train",
  where=lambda session: session.paths.adapter,
  needs=_needed,
  inputs=_inputs,
  is_there=lambda session: (
    session.paths.adapter / tuning.WEIGHTS_FILE
  ).exists(),
  files=lambda session: ("adapter/adapter_*",),
  tolerated=tuning.TOLERATED,
  set_aside=_set_aside,
  build=lambda session, made_from: tuning.fit(
    session, _run(session), made_from
  ),
  check=_check,
  batches=("train.micro_batch_size",),
  cost=lambda session: tuning.cost(session, session.config.train, "train"),
)
