"""What both stages of fine-tuning have in common: one run of the trainer."""

import dataclasses
import pathlib
from typing import Any

from bigrec_jax import config as config_lib
from bigrec_jax.stages import graph, mixed, train_cf
from bigrec_jax.stages.session import Session, say
from bigrec_jax.tasks import protocol
from bigrec_jax.workdir import (
  contents,
  fingerprints,
  paths as paths_lib,
  processes,
)

WEIGHTS_FILE = "adapter_model.safetensors"
# Inputs that may differ where an adapter is only used.
TOLERATED = frozenset(
  {
    "also",
    "catalogue",
    "chosen_by",
    "lora",
    "seed",
    "start",
    "task.eval_steps",
    "train",
    "valid_examples",
  }
)
# What changes how training runs but not what comes out of it, and what other
# inputs stand for.
_UNREAD = (
  *("keep_checkpoints", "save_every_steps", "profile_steps"),
  *("also", "first"),
)
# Read where `objective` isn't the default alone; else the inputs are those of
# before there was a choice.
_OBJECTIVE_KEYS = ("objective", "temperature", "adaptive_temperature")
_OWN_KEYS = ("own_l2",)  # Read where a task has weights of its own.


@dataclasses.dataclass(frozen=True)
class Run:
  """One fine-tuning.

  Attributes:
    name: of its stage, its messages and its throughput.
    task: whose samples, loss and selection; its store has the options.
    paths: where adapter, checkpoints and curve go.
    start: PEFT folder that it starts from; None = a fresh adapter.
    also: names the samples of other workdirs that it reads; None = none.
  """

  name: str
  task: protocol.Task
  paths: paths_lib.Paths
  start: pathlib.Path | None
  also: mixed.Version | None

  @property
  def config(self) -> config_lib.TrainConfig:
    """Section `train` of its task's store."""
    return self.task.store.config.train


def inputs(session: Session, run: Run, start: str) -> graph.Inputs:
  """Returns what the adapter of a run is made from.

  Args:
    session: of the workdir.
    run: the run.
    start: fingerprint of the adapter it starts from, "" of none.
  """
  config, options = session.config, session.config.to_dict()
  train = dataclasses.asdict(run.config)
  unread: tuple[str, ...] = _UNREAD
  if run.config.schedule == "linear":
    unread += ("schedule",)
  if not run.task.has_own_weights:
    unread += _OWN_KEYS
  objective = run.config.objective
  # Each section is read by the objective of its name.
  unread += tuple(
    field.name
    for field in dataclasses.fields(run.config)
    if dataclasses.is_dataclass(getattr(run.config, field.name))
    and field.name != objective
  )
  titles = {}
  if objective == "language_model":
    unread += _OBJECTIVE_KEYS
  else:  # All of them have a say, not only those of the rows.
    titles = {"catalogue": session.catalogue.fingerprint}
  vectors = {}
  if model := run.task.cf_model:
    vectors = {"item_vectors": train_cf.inputs(session, model)}
  return {
    "base": session.base_fingerprint,
    "start": start,
    "lora": options["lora"],
    "train": {k: v for k, v in train.items() if k not in unread},
    "prompt": options["prompt"],
    **run.task.made_from("train"),
    **run.task.made_from("valid"),
    **titles,
    **vectors,
    **(mixed.made_from(session, run.also) if run.also else {}),
    "seed": config.seed,
  }


def fit(session: Session, run: Run, made_from: graph.Inputs) -> None:
  """Trains; the trainer writes adapter and checkpoints.

  Args:
    session: of the workdir.
    run: the run.
    made_from: its inputs.
  """
  import jax

  from bigrec_jax.training import trainer

  config, task = session.config, run.task
  lora_config, lora = config.lora, None
  if run.start is not None:
    lora_config, lora = session.load_adapter(run.start, start=True)
  train, valid = task.samples("train"), task.samples("valid")
  if run.also is not None:
    train = mixed.samples(session, run.also)
  say(
    f"{run.name}: {len(train):,} examples, evaluated on"
    f" {len(valid):,}, {jax.device_count()} device(s)"
  )
  network = session.network(session.build(lora_config))
  result = trainer.fit(
    model=network.model,
    params=network.params,
    lora=lora,
    train=train,
    valid=valid,
    tokenizer=session.tokenizer,
    config=run.config,
    seed=config.seed,
    mesh=session.mesh,
    paths=run.paths,
    fingerprint=fingerprints.of_value(made_from),
    base_name=str(session.base_dir),
    base_fingerprint=session.base_fingerprint,
    objective=task.objective(),
    selection=task.selection(network),
    own=task.own_weights(network.model.config),
  )
  session.keep_throughput(
    run.name, result.tokens, "tokens", result.seconds, steps=result.steps
  )


def set_aside(session: Session, stage: str, adapter: pathlib.Path) -> None:
  """Keeps the adapter that is about to be replaced: nothing is lost.

  Args:
    session: of the workdir.
    stage: whose adapter it is.
    adapter: its folder.
  """
  record = session.paths.record(stage)

  def work() -> None:
    if not (record.exists() and adapter.exists()):
      return
    name = fingerprints.of_file(record)[:8]
    if contents.altered(session.paths, [stage]):  # Whosever it is now.
      name = f"changed.{fingerprints.of_folder(adapter, '*')[:8]}"
    kept = adapter.with_name(f"adapter.{name}")
    if not kept.exists():
      adapter.rename(kept)
      say(f"train: the former adapter is kept in {kept}")

  processes.on_first(work)


def cost(
  session: Session, run_config: config_lib.TrainConfig, label: str
) -> Any:
  """Returns how many steps a run has at most, None if that isn't known."""
  count = session.num_samples("train")
  if count is None:
    return None
  steps = run_config.num_epochs * -(-count // run_config.batch_size)
  early = run_config.early_stopping_patience > 0
  return graph.Cost(steps, "steps", label, at_most=early)
