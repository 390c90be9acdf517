"""LoRA fine-tuning of the base on the train split."""

import dataclasses
import pathlib
from collections.abc import Iterator

from absl import logging

from bigrec_jax import config as config_lib
from bigrec_jax.recommend import adapter_origin
from bigrec_jax.stages import graph, prepare, pretrain
from bigrec_jax.stages.session import Asked, Session, say
from bigrec_jax.tasks import protocol
from bigrec_jax.workdir import contents, fingerprints, given_models, processes

# What changes how training runs but not what comes out of it.
_RUNTIME_KEYS = ("keep_checkpoints", "save_every_steps", "profile_steps")
# Read where `objective` isn't the default alone; else the inputs are those of
# before there was a choice.
_OBJECTIVE_KEYS = ("objective", "temperature", "adaptive_temperature")
_OWN_SECTIONS = ("contrastive",)  # Each is read by the objective of its name.
_OWN_KEYS = ("own_l2",)  # Read where a task has weights of its own.
_WEIGHTS_FILE = "adapter_model.safetensors"


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
  Session(config, workdir, asked).make(STAGE)


def needed(session: Session) -> Iterator[graph.Stage]:
  """Yields what whoever decodes needs: base, and the own adapter if used."""
  yield from pretrain.needed(session)
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


def _inputs(session: Session) -> graph.Inputs:
  config = session.config
  options = config.to_dict()
  start = config.model.adapter
  unread: tuple[str, ...] = _RUNTIME_KEYS
  if not session.task.has_own_weights:
    unread += _OWN_KEYS
  titles = {}
  unread += tuple(n for n in _OWN_SECTIONS if n != config.train.objective)
  if config.train.objective == "language_model":
    unread += _OBJECTIVE_KEYS
  else:  # All of them have a say, not only those of the rows.
    titles = {"catalogue": session.catalogue.fingerprint}
  return {
    "base": session.base_fingerprint,
    "start": _adapter(session, pathlib.Path(start)).fingerprint
    if start
    else "",
    "lora": options["lora"],
    "train": {k: v for k, v in options["train"].items() if k not in unread},
    "prompt": options["prompt"],
    **session.task.made_from("train"),
    **session.task.made_from("valid"),
    **titles,
    "seed": config.seed,
  }


def _set_aside(session: Session, _: graph.Inputs) -> None:
  """Keeps the adapter that is about to be replaced: nothing is lost."""
  paths, record = session.paths, session.paths.record(STAGE.name)

  def work() -> None:
    if not (record.exists() and paths.adapter.exists()):
      return
    name = fingerprints.of_file(record)[:8]
    if contents.altered(paths, [STAGE.name]):  # Whosever it is now.
      name = f"changed.{fingerprints.of_folder(paths.adapter, '*')[:8]}"
    kept = paths.root / f"adapter.{name}"
    if not kept.exists():
      paths.adapter.rename(kept)
      say(f"train: the former adapter is kept in {kept}")

  processes.on_first(work)


def _check(session: Session) -> None:
  prepare.check_train_rows(session)
  if start := session.config.model.adapter:
    given_models.check_adapter(start)
    _check_origin(session, pathlib.Path(start))


def _cost(session: Session) -> graph.Cost | None:
  train, count = session.config.train, session.num_examples("train")
  if count is None:
    return None
  steps = train.num_epochs * -(-count // train.batch_size)
  early = train.early_stopping_patience > 0
  return graph.Cost(steps, "steps", "train", at_most=early)


def _build(session: Session, inputs: graph.Inputs) -> None:
  """Runs the training loop; the trainer writes adapter and checkpoints."""
  import jax

  from bigrec_jax.training import trainer

  config = session.config
  if config.model.adapter:
    directory = pathlib.Path(config.model.adapter)
    lora_config, lora = session.load_adapter(directory, start=True)
  else:
    lora_config, lora = config.lora, None
  train, valid = session.task.samples("train"), session.task.samples("valid")
  say(
    f"train: {len(train):,} examples, evaluated on"
    f" {len(valid):,}, {jax.device_count()} device(s)"
  )
  network = protocol.Network(
    session.build(lora_config),
    session.base.params,
    session.tokenizer,
    session.mesh,
  )
  result = trainer.fit(
    model=network.model,
    params=network.params,
    lora=lora,
    train=train,
    valid=valid,
    tokenizer=session.tokenizer,
    config=config.train,
    seed=config.seed,
    mesh=session.mesh,
    paths=session.paths,
    fingerprint=fingerprints.of_value(inputs),
    base_name=str(session.base_dir),
    base_fingerprint=session.base_fingerprint,
    objective=session.task.objective(),
    selection=session.task.selection(network),
    own=session.task.own_weights(network.model.config),
  )
  session.keep_throughput(
    "train", result.tokens, "tokens", result.seconds, steps=result.steps
  )


STAGE = graph.Stage(
  name="adapter",
  mode="train",
  where=lambda session: session.paths.adapter,
  needs=pretrain.needed,
  inputs=_inputs,
  is_there=lambda session: (session.paths.adapter / _WEIGHTS_FILE).exists(),
  files=lambda session: ("adapter/adapter_*",),
  tolerated=frozenset(
    {
      "catalogue",
      "lora",
      "seed",
      "start",
      "task.eval_steps",
      "train",
      "valid_examples",
    }
  ),
  set_aside=_set_aside,
  build=_build,
  check=_check,
  batches=("train.micro_batch_size",),
  cost=_cost,
)
