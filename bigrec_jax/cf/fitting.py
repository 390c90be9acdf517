"""The loop around the compiled epoch: evaluate, keep the best, save, stop."""

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from bigrec_jax import errors, progress as progress_lib
from bigrec_jax.cf import networks, recipes, steps, trainer as trainer_lib
from bigrec_jax.workdir import checkpoints, interrupts

# Valid NDCG of one run's parameters.
Score = Callable[[networks.Params], float]


@dataclasses.dataclass(frozen=True)
class Schedule:
  """When to stop and to save.

  Attributes:
    num_epochs: at most this many.
    patience: epochs without a better valid NDCG; 0 = never stop early.
    save_every_epochs: checkpoints; 0 = at the end only.
  """

  num_epochs: int
  patience: int
  save_every_epochs: int


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
  """What training gave.

  Attributes:
    params: of the best epoch, leaves [S, ...].
    books: JSON-able: `curve` (one entry an epoch: epoch, loss [S], ndcg [S],
      seconds, eval_seconds, compiled), `best_epoch` [S], `best_ndcg` [S],
      `packed_rows`.
  """

  params: networks.Params
  books: dict[str, Any]


def of_run(params: networks.Params, run: int) -> networks.Params:
  """Returns the parameters of one run out of the stacked ones."""
  return jax.tree.map(lambda x: x[run], params)


def fit(
  trainer: trainer_lib.CfTrainer,
  score: Score,
  schedule: Schedule,
  directory: pathlib.Path | None,
  progress: progress_lib.Reports,
) -> Fitted:
  """Trains until the patience of every run is spent.

  Args:
    trainer: data and compiled epoch.
    score: valid NDCG; called for every run after every epoch.
    schedule: when to stop.
    directory: of the checkpoints of exactly this training, continued where
      there are some; None = nothing is saved.
    progress: told of every epoch.

  Raises:
    UserError: the loss isn't finite.
    Interrupted: a signal came; what was done is saved.
  """
  if directory is None:
    return _loop(trainer, score, schedule, None, None, progress)
  with (
    interrupts.Watch() as watch,
    checkpoints.Checkpoints(directory, keep=1) as saved,
  ):
    return _loop(trainer, score, schedule, saved, watch, progress)


def best_params(
  directory: pathlib.Path, abstract: steps.State, num_seeds: int
) -> networks.Params | None:
  """Returns the parameters that `fit` kept, or None without a checkpoint.

  Nothing is written.

  Args:
    directory: of the checkpoints.
    abstract: `trainer.abstract_state` of the same training.
    num_seeds: seeds of a grid point; the first of the best point counts.
  """
  found = checkpoints.read_latest(directory, abstract)
  if found is None:
    return None
  scores = np.asarray(found.state.best_score, np.float64).tolist()
  first, *_ = recipes.best_point(scores, num_seeds)
  return of_run(found.state.best_params, first)


def _loop(
  trainer: trainer_lib.CfTrainer,
  score: Score,
  schedule: Schedule,
  saved: checkpoints.Checkpoints | None,
  watch: interrupts.Watch | None,
  progress: progress_lib.Reports,
) -> Fitted:
  state, books = _start(trainer, saved)
  curve = books["curve"]
  if curve:
    progress.skip(len(curve))
  while not _finished(state, schedule):
    started = time.perf_counter()
    programs = trainer.num_programs
    state, on_device = trainer.run_epoch(state)
    loss = np.asarray(on_device)
    trained = time.perf_counter()
    _check_finite(loss, trainer, len(curve) + 1)
    ndcg = [
      score(of_run(state.params, run)) for run in range(len(trainer.runs))
    ]
    state = steps.keep_best(
      state, jnp.asarray(ndcg, jnp.float32), patience=schedule.patience
    )
    evaluated = time.perf_counter()
    curve.append(
      {
        "epoch": len(curve) + 1,
        "loss": [float(x) for x in loss],
        "ndcg": ndcg,
        "seconds": round(trained - started, 4),
        "eval_seconds": round(evaluated - trained, 4),
        # The first epoch of a program, and of a process, also compiles.
        "compiled": trainer.num_programs > programs,
      }
    )
    progress.update(1, loss=float(loss.mean()), ndcg=float(np.mean(ndcg)))
    books["packed_rows"] = trainer.packed_rows
    every = schedule.save_every_epochs
    stop = watch is not None and watch.asked(len(curve))
    if saved is not None and (stop or (every and len(curve) % every == 0)):
      saved.save(len(curve), state, {}, books)
    if watch is not None and saved is not None and stop:
      saved.wait()
      raise watch.interrupted(
        f"training stopped after epoch {len(curve)}, saved in"
        f" {saved.directory}; the same command goes on from there"
      )
  if saved is not None and len(curve) not in saved.steps():
    saved.save(len(curve), state, {}, books)
  books["best_epoch"] = np.asarray(state.best_epoch).tolist()
  books["best_ndcg"] = np.asarray(state.best_score, np.float64).tolist()
  return Fitted(state.best_params, books)


def _start(
  trainer: trainer_lib.CfTrainer, saved: checkpoints.Checkpoints | None
) -> tuple[steps.State, dict[str, Any]]:
  """Returns the latest checkpoint, or the state before the first epoch."""
  if saved is None or (
    (found := saved.restore_latest(trainer.abstract())) is None
  ):
    return trainer.init(), {"curve": []}
  logging.info("goes on after epoch %d of %s", found.step, saved.directory)
  trainer.packed_rows = found.config["packed_rows"]
  return found.state, dict(found.config)


def _finished(state: steps.State, schedule: Schedule) -> bool:
  if int(state.epoch) >= schedule.num_epochs:
    return True
  # Before the first epoch nothing is spent.
  return int(state.epoch) > 0 and bool(
    steps.spent(state, 0, schedule.patience).all()
  )


def _check_finite(
  loss: np.ndarray, trainer: trainer_lib.CfTrainer, epoch: int
) -> None:
  for value, run in zip(loss, trainer.runs, strict=True):
    if not np.isfinite(value):
      least = "a lower config.cf.learning_rate"
      if (loss_of := trainer.recipe.loss).dro:
        least += f" or a config.cf.dro_beta above {loss_of.dro_beta:g}"
      raise errors.UserError(
        f"train_cf: loss {value} found in epoch {epoch} with learning rate"
        f" {run.learning_rate:g} and seed {run.seed}, a finite one expected:"
        f" {least}"
      )
