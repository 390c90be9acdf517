"""LoRA fine-tuning: epochs, evaluation, early stopping, checkpoints, resume.

The host loop stays ahead of the device (not of a single CPU, which two threads
keep busy): a step's metrics are fetched while the next one runs, checkpoints
are written in the background. A run is named by a fingerprint of all that its
result depends on; it resumes only from its own checkpoints, and what it does
after a resume equals, bit for bit, what it would have done without the
interruption.
"""

import dataclasses
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh

from bigrec_jax import config as config_lib
from bigrec_jax.data.text import packing, pipeline
from bigrec_jax.devices import sharding, side_by_side
from bigrec_jax.training import (
  interruption,
  optimizer,
  reports,
  run_files,
  step,
)
from bigrec_jax.workdir import checkpoints

Tree = Any


@dataclasses.dataclass
class Books:
  """What early stopping knows; stored with every checkpoint.

  Attributes:
    step: optimizer steps taken.
    best_loss: lowest eval loss so far; None before the first.
    best_step: where that was.
    stale_epochs: epochs since, without a lower one.
    finished: why training is over ("epochs", "early stopping"); "" = it isn't.
  """

  step: int = 0
  best_loss: float | None = None
  best_step: int = 0
  stale_epochs: int = 0
  finished: str = ""


@dataclasses.dataclass(frozen=True)
class FitResult:
  """What a finished run says of itself.

  Attributes:
    books: the last state of the books.
    adapter: the best adapter, a tree of arrays on the mesh.
    tokens: tokens trained on since the start or resume, without padding.
    seconds: time that took, evaluation and compilation included.
  """

  books: Books
  adapter: Tree
  tokens: int
  seconds: float


class Trainer:
  """One run; `run` does it. The parts are methods for the tests' sake."""

  def __init__(
    self,
    config: config_lib.TrainConfig,
    steps: step.Steps,
    base: Tree,
    adapter: Tree,
    stream: pipeline.TrainStream,
    eval_batches: Iterable[Sequence[packing.MicroBatch]],
    *,
    mesh: Mesh,
    files: run_files.RunFiles,
  ):
    """Sets up the state; the first steps come with `run`.

    Args:
      config: section `train`.
      steps: the compiled parts.
      base: frozen parameters on the mesh.
      adapter: where training starts, on the mesh.
      stream: gives the micro-batches of each step.
      eval_batches: lists of micro-batches, iterated once an epoch.
      mesh: the device mesh.
      files: where the run keeps what it writes.
    """
    self._config = config
    self._base = base
    self._stream = stream
    self._eval_batches = eval_batches
    self._mesh = mesh
    self._files = files
    self._steps = steps
    self._state, self._sums = steps.init(adapter)
    self._best = jax.tree.map(jnp.copy, adapter)
    self._books = Books()
    self._total_steps = stream.num_steps
    self._tokens = 0
    self._start = time.monotonic()

  def run(self) -> FitResult:
    """Trains to the end, from the latest checkpoint if there is one.

    Raises:
      TrainingStopped: a signal came (after saving), or the loss is no number.
    """
    config, files = self._config, self._files
    with checkpoints.Checkpoints(
      files.checkpoints, config.keep_checkpoints
    ) as store:
      resumed = self._restore(store)
      if self._books.best_step:
        # It may have been removed, or belong to a later epoch that is lost.
        files.save_adapter(self._best)
      left = self._total_steps - self._books.step
      with (
        reports.open_writer(
          files.metrics,
          files.tensorboard,
          self._books.step if resumed else None,
        ) as writer,
        interruption.Watch() as watch,
      ):
        if not self._books.finished:
          with reports.open_progress(left, "steps", "train") as bar:
            self._loop(store, writer, watch, bar)
    seconds = time.monotonic() - self._start
    return FitResult(self._books, self._best, self._tokens, seconds)

  def _restore(self, store: checkpoints.Checkpoints) -> bool:
    """Continues from the latest checkpoint; False if there is none."""
    like = {"state": self._state, "best": self._best}
    found = store.restore_latest(like)
    if found is None:
      return False
    self._state, self._best = found.state["state"], found.state["best"]
    self._books = Books(**found.config["books"])
    self._stream.set_state(found.data)
    logging.info(
      "train: resumed at step %d of %d from %s",
      found.step,
      self._total_steps,
      store.directory,
    )
    return True

  def _save(self, store: checkpoints.Checkpoints) -> None:
    store.save(
      self._books.step,
      {"state": self._state, "best": self._best},
      self._stream.get_state(),
      {"books": dataclasses.asdict(self._books)},
    )

  def _loop(
    self,
    store: checkpoints.Checkpoints,
    writer: reports.Writer,
    watch: interruption.Watch,
    bar: reports.Progress,
  ) -> None:
    """Steps, and what happens between them, until training is over."""
    config, books = self._config, self._books
    per_epoch = self._stream.steps_per_epoch
    late = side_by_side.programs_at_once(self._mesh) == 1
    report = reports.StepReport(writer, bar, late=late)
    profile = reports.Profile(config.profile_steps, self._files.profile)
    while not books.finished:
      profile.before_step(self._state)
      self._step(report)
      epoch_ends = books.step % per_epoch == 0
      if epoch_ends:
        report.flush()
        self._end_epoch(writer)
      stop = watch.asked(books.step)
      periodic = config.save_every_steps
      if epoch_ends or stop or (periodic and books.step % periodic == 0):
        report.flush()  # Nothing is saved that turns out to be NaN.
        self._save(store)
      if stop and not books.finished:
        store.wait()
        raise interruption.TrainingStopped(
          f"training: {watch.name} at step {books.step} of"
          f" {self._total_steps}; saved in {store.directory}, the same command"
          " goes on from there"
        )
    profile.close(self._state)

  def _step(self, report: reports.StepReport) -> None:
    """One optimizer step; an accelerator has not finished it on return."""
    report.begin()
    before = self._stream.tokens
    self._sums = self._steps.add_up(
      self._sums, self._state, self._base, next(self._stream)
    )
    config, books = self._config, self._books
    rate = optimizer.linear_schedule(
      books.step, config.learning_rate, config.warmup_steps, self._total_steps
    )
    self._state, self._sums, metrics = self._steps.apply(
      self._state,
      self._sums,
      sharding.put_replicated(self._mesh, np.float32(rate)),
    )
    books.step += 1
    tokens = self._stream.tokens - before
    self._tokens += tokens
    report.add(books.step, rate, metrics, tokens)

  def _end_epoch(self, writer: reports.Writer) -> None:
    """Evaluates, keeps the best adapter, decides whether to go on."""
    config, books = self._config, self._books
    loss = self.evaluate()
    if loss is not None:
      writer.write(books.step, {"eval_loss": loss})
    epoch = books.step // self._stream.steps_per_epoch
    better = loss is None or books.best_loss is None or loss < books.best_loss
    if better:
      books.best_loss, books.best_step, books.stale_epochs = loss, books.step, 0
      self._best = jax.tree.map(jnp.copy, self._state.params)
      self._files.save_adapter(self._best)
    else:
      books.stale_epochs += 1
    logging.info(
      "train: epoch %d of %d, eval loss %s%s",
      epoch,
      config.num_epochs,
      "not measured" if loss is None else f"{loss:.5f}",
      " (best so far)" if better else "",
    )
    patience = config.early_stopping_patience
    if patience and books.stale_epochs >= patience:
      books.finished = "early stopping"
    if books.step >= self._total_steps:
      books.finished = "epochs"

  def evaluate(self) -> float | None:
    """Returns the token-weighted mean loss over the evaluation set.

    Hugging Face Trainer averages the means of its batches, so its number
    depends on the batch size and the order; this one doesn't, and equals it
    when one batch holds all. None if there is nothing to evaluate on.
    """
    parts = [
      self._steps.evaluate(
        self._state.params,
        self._base,
        step.put_batch(self._mesh, batch),
      )
      for batches in self._eval_batches
      for batch in batches
    ]
    parts = jax.device_get(parts)
    count = sum(int(count) for _, count in parts)
    if not count:
      return None
    loss = sum(float(total) for total, _ in parts) / count
    if not math.isfinite(loss):
      raise interruption.TrainingStopped(
        f"training: eval loss is {loss} at step {self._books.step}; a finite"
        " number expected (lower train.learning_rate?)"
      )
    return loss
