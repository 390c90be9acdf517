"""The first of two stages of fine-tuning: on texts alone, of several data sets.

Its adapter is where the other stage starts. It reads the workdir's own train
rows and those of `train.also`, without soft tokens; its best epoch is that of
the workdir's own valid rows.
"""

import copy
import dataclasses
import pathlib

from bigrec_jax.stages import graph, mixed, prepare, pretrain, tuning
from bigrec_jax.stages.session import Session
from bigrec_jax.tasks import protocol, registry
from bigrec_jax.workdir import fingerprints, given_models, paths as paths_lib


def is_asked_for(session: Session) -> bool:
  """Returns whether training has two stages."""
  return session.config.train.first.num_epochs > 0


def adapter(session: Session) -> pathlib.Path:
  """Returns the folder of its adapter."""
  return _paths(session).adapter


def fingerprint(session: Session) -> str:
  """Returns what names the content of its adapter."""
  return fingerprints.of_folder(adapter(session), "adapter_*")


def _paths(session: Session) -> paths_lib.Paths:
  return paths_lib.Paths(session.paths.first)


def version(task: protocol.Task) -> protocol.Task:
  """Returns a task as the first stage has it: its options, texts alone."""
  # What the store holds is in memory once.
  store = copy.copy(task.store)
  train = store.config.train
  own = train.first
  store.config = dataclasses.replace(
    store.config,
    train=dataclasses.replace(
      train,
      num_epochs=own.num_epochs,
      learning_rate=own.learning_rate,
      objective=own.objective,
      first=dataclasses.replace(own, num_epochs=0),
    ),
  )
  return registry.make(store).text_only()


def _run(session: Session) -> tuning.Run:
  start = session.config.model.adapter
  return tuning.Run(
    name="first stage",
    task=version(session.task),
    paths=_paths(session),
    start=pathlib.Path(start) if start else None,
    also=version,
  )


def _inputs(session: Session) -> graph.Inputs:
  run = _run(session)
  start = session.adapter_fingerprint(run.start) if run.start else ""
  return tuning.inputs(session, run, start)


def _check(session: Session) -> None:
  prepare.check_train_rows(session)
  mixed.sets(session)
  version(session.task)
  if start := session.config.model.adapter:
    given_models.check_adapter(start)


def _set_aside(session: Session, _: graph.Inputs) -> None:
  tuning.set_aside(session, STAGE.name, adapter(session))


STAGE = graph.Stage(
  name="first_adapter",
  mode="train",
  where=adapter,
  needs=pretrain.needed,
  inputs=_inputs,
  is_there=lambda session: (adapter(session) / tuning.WEIGHTS_FILE).exists(),
  files=lambda session: ("first/adapter/adapter_*",),
  tolerated=tuning.TOLERATED,
  set_aside=_set_aside,
  build=lambda session, made_from: tuning.fit(
    session, _run(session), made_from
  ),
  check=_check,
  batches=("train.micro_batch_size",),
  cost=lambda session: tuning.cost(
    session, version(session.task).store.config.train, "first stage"
  ),
)
