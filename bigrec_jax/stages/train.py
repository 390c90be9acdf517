"""LoRA fine-tuning of the base on the train split."""

import dataclasses
import pathlib
from typing import Any

from absl import logging

from bigrec_jax import config as config_lib, errors
from bigrec_jax.stages import pretrain, session
from bigrec_jax.tasks import protocol
from bigrec_jax.workdir import (
  fingerprints,
  paths as paths_lib,
  processes,
  records,
)

# What changes how training runs but not what comes out of it.
_RUNTIME_KEYS = ("keep_checkpoints", "save_every_steps", "profile_steps")
_WEIGHTS_FILE = "adapter_model.safetensors"


@dataclasses.dataclass(frozen=True)
class Adapter:
  """A PEFT directory and the name of its content."""

  directory: pathlib.Path
  fingerprint: str


def run(config: config_lib.Config, workdir: pathlib.Path) -> None:
  """Trains until `adapter/` holds the best epoch; resumes what was begun.

  Raises:
    UserError: data, base or the adapter to start from cannot be used.
  """
  ensure(session.Session(config, workdir))


def ensure(run: session.Session) -> Adapter:
  """Trains where `adapter/` is missing or was made from anything else."""
  pretrain.ensure(run)
  made_from = _made_from(run)
  record = run.paths.record("adapter")
  if records.is_current(record, made_from, run.paths.adapter / _WEIGHTS_FILE):
    session.say(f"train: {run.paths.adapter} is current")
    return _adapter(run.paths.adapter)
  processes.on_first(lambda: _set_aside(run.paths, record, made_from))
  _fit(run, fingerprints.of_value(made_from))
  records.write_record(record, made_from)
  return _adapter(run.paths.adapter)


def existing_adapter(run: session.Session) -> Adapter:
  """Returns the adapter to decode with, without training one.

  That is the workdir's own if it fits the base, else `model.adapter`.

  Raises:
    UserError: there is none.
  """
  adapter = find_adapter(run)
  if adapter is None:
    raise errors.UserError(
      f"{run.paths.adapter}: no adapter of this base and data found; run"
      " --mode=train first, or name one by --config.model.adapter"
    )
  return adapter


def find_adapter(run: session.Session) -> Adapter | None:
  """Returns the adapter to decode with, or None if one must be trained.

  The workdir's adapter counts if it is of this base, prompt and data: other
  training options (say, a learning rate left out of this command) are told
  but do not cost hours of training again. `train` and `pipeline` are strict.
  """
  pretrain.ensure(run)
  if processes.agree(lambda: _own_fits(run)):
    return _adapter(run.paths.adapter)
  if run.config.model.adapter:
    return _adapter(pathlib.Path(run.config.model.adapter))
  return None


def _own_fits(run: session.Session) -> bool:
  """Returns whether the workdir's adapter is of this base, prompt and data."""
  record = run.paths.record("adapter")
  if not (record.exists() and (run.paths.adapter / _WEIGHTS_FILE).exists()):
    return False
  essential = ("base", "prompt", "train_examples")
  changed = records.differences(record, _made_from(run))
  if any(line.startswith(essential) for line in changed):
    return False
  for line in changed:
    logging.warning("the adapter was trained with other options: %s", line)
  return True


def _adapter(directory: pathlib.Path) -> Adapter:
  name = fingerprints.of_folder(directory, "adapter_*")
  return Adapter(directory, name)


def _made_from(run: session.Session) -> dict[str, Any]:
  config = run.config
  options = config.to_dict()
  start = config.model.adapter
  return {
    "base": run.base_fingerprint,
    "start": _adapter(pathlib.Path(start)).fingerprint if start else "",
    "lora": options["lora"],
    "train": {
      k: v for k, v in options["train"].items() if k not in _RUNTIME_KEYS
    },
    "prompt": options["prompt"],
    **run.task.made_from("train"),
    **run.task.made_from("valid"),
    "seed": config.seed,
  }


def _set_aside(
  paths: paths_lib.Paths, record: pathlib.Path, made_from: dict[str, Any]
) -> None:
  """Keeps the adapter that is about to be replaced: nothing is lost."""
  if not record.exists():
    return
  for line in records.differences(record, made_from):
    session.say(f"train: again, because of {line}")
  old = fingerprints.of_file(record)[:8]
  if paths.adapter.exists():
    kept = paths.root / f"adapter.{old}"
    if not kept.exists():
      paths.adapter.rename(kept)
      session.say(f"train: the former adapter is kept in {kept}")
  record.unlink()


def _fit(run: session.Session, name: str) -> None:
  """Runs the training loop; the trainer writes adapter and checkpoints."""
  import jax

  from bigrec_jax.training import trainer

  config = run.config
  if config.model.adapter:
    lora_config, lora = run.load_adapter(pathlib.Path(config.model.adapter))
  else:
    lora_config, lora = config.lora, None
  train, valid = run.task.samples("train"), run.task.samples("valid")
  session.say(
    f"train: {len(train):,} examples, evaluated on"
    f" {len(valid):,}, {jax.device_count()} device(s)"
  )
  network = protocol.Network(
    run.build(lora_config), run.base.params, run.tokenizer, run.mesh
  )
  result = trainer.fit(
    model=network.model,
    params=network.params,
    lora=lora,
    train=train,
    valid=valid,
    tokenizer=run.tokenizer,
    config=config.train,
    seed=config.seed,
    mesh=run.mesh,
    paths=run.paths,
    fingerprint=name,
    base_name=str(run.base_dir),
    objective=run.task.objective(),
    selection=run.task.selection(network),
  )
  run.keep_throughput("train", result.tokens, "tokens", result.seconds)
