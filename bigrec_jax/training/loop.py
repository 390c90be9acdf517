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
from bigrec_jax.devices import sharding
from bigrec_jax.training import (
  not_finite,
  optimizer,
  reports,
  run_files,
  selection as selection_lib,
  step,
)
from bigrec_jax.workdir import checkpoints, interrupts

Tree = Any


@dataclasses.dataclass
class Books:
  """What early stopping knows; stored with every checkpoint.

  Attributes:
    step: optimizer steps taken.
    best: best value so far of what selects, the eval loss or a task's own
      metric; None before the first.
    best_step: where that was.
    stale: evaluations since, without a better one.
    finished: why training is over ("epochs", "early stopping"); "" = it isn't.
  """

  step: int = 0
  best: float | None = None
  best_step: int = 0
  stale: int = 0
  finished: str = ""

  @classmethod
  def from_json(cls, stored: dict[str, Any]) -> "Books":
    """Reads the books of a checkpoint, of before the names were these too."""
    former = {"best_loss": "best", "stale_epochs": "stale"}
    return cls(**{former.get(k, k): v for k, v in stored.items()})


@dataclasses.dataclass(frozen=True)
class FitResult:
  """What a finished run says of itself.

  Attributes:
    books: the last state of the books.
    adapter: the best adapter, a tree of arrays on the mesh.
    tokens: tokens trained on since the start or resume, without padding.
    seconds: time that took, evaluation and compilation included.
    steps: that were made in it.
  """

  books: Books
  adapter: Tree
  tokens: int
  seconds: float
  steps: int


class TrainingRun:
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
    selection: selection_lib.Selection | None = None,
  ):
    """Sets up the state; the first steps come with `run`.

    Args:
      config: section `train`.
      steps: the compiled parts.
      base: frozen parameters on the mesh.
      adapter: where training starts, on the mesh.
      stream: gives the micro-batches of each step.
      eval_batches: lists of micro-batches, iterated at every evaluation.
      mesh: the device mesh.
      files: where the run keeps what it writes.
      selection: what decides which adapter is best; None = the eval loss.
    """
    self._selection = selection or selection_lib.Selection()
    self._config = config
    self._base = steps.prepare(base)
    self._stream = stream
    self._eval_batches = eval_batches
    self._mesh = mesh
    self._files = files
    self._steps = steps
    self._state, self._sums = steps.init(adapter)
    self._best = jax.tree.map(jnp.copy, adapter)
    self._books = Books()
    # What the last steps were given, for the cause of a loss that is NaN.
    self._given: dict[int, Sequence[packing.MicroBatch]] = {}
    self._total_steps = stream.num_steps
    self._tokens = 0
    self._start = time.monotonic()

  def run(self) -> FitResult:
    """Trains to the end, from the latest checkpoint if there is one.

    Raises:
      Interrupted: a signal came; what was done is saved.
      NotFinite: the loss is no number.
    """
    config, files = self._config, self._files
    with (
      interrupts.Watch() as watch,
      checkpoints.Checkpoints(
        files.checkpoints, config.keep_checkpoints
      ) as store,
    ):
      resumed = self._restore(store)
      if self._books.best_step:
        # It may have been removed, or belong to a later epoch that is lost.
        files.save_adapter(self._best)
      left = self._total_steps - self._books.step
      with reports.open_writer(
        files.metrics,
        files.tensorboard,
        self._books.step if resumed else None,
      ) as writer:
        if not self._books.finished:
          with reports.open_progress(left, "steps", "train") as bar:
            try:
              self._loop(store, writer, watch, bar)
            except not_finite.NotFinite as error:
              raise self._traced(error) from None
    seconds = time.monotonic() - self._start
    steps = self._books.step - (self._total_steps - left)
    return FitResult(self._books, self._best, self._tokens, seconds, steps)

  def _restore(self, store: checkpoints.Checkpoints) -> bool:
    """Continues from the latest checkpoint; False if there is none."""
    like = {"state": self._state, "best": self._best}
    found = store.restore_latest(like)
    if found is None:
      return False
    self._state, self._best = found.state["state"], found.state["best"]
    self._books = Books.from_json(found.config["books"])
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
    watch: interrupts.Watch,
    bar: reports.Progress,
  ) -> None:
    """Steps, and what happens between them, until training is over."""
    config, books = self._config, self._books
    per_epoch = self._stream.steps_per_epoch
    late = self._steps.executor.runs_ahead
    report = reports.StepReport(writer, bar, late=late)
    profile = reports.Profile(config.profile_steps, self._files.profile)
    while not books.finished:
      profile.before_step(self._state)
      self._step(report)
      due = self._selection.due(books.step, per_epoch, self._total_steps)
      if due:
        report.flush()
        with watch.unhurried():
          self._judge(writer)
      stop = watch.asked(books.step)
      periodic = config.save_every_steps
      if due or stop or (periodic and books.step % periodic == 0):
        report.flush()  # Nothing is saved that turns out to be NaN.
        self._save(store)
      if stop and not books.finished:
        store.wait()
        raise watch.interrupted(
          f"training stopped at step {books.step} of {self._total_steps}, saved"
          f" in {store.directory}; the same command goes on from there"
        )
    profile.close(self._state)

  def _step(self, report: reports.StepReport) -> None:
    """One optimizer step; an accelerator has not finished it on return."""
    report.begin()
    before = self._stream.tokens
    batches = next(self._stream)
    # A step is reported when the next one is under way.
    self._given = {
      step: kept
      for step, kept in self._given.items()
      if step >= self._books.step
    } | {self._books.step + 1: batches}
    self._sums = self._steps.add_up(
      self._sums, self._state, self._base, batches
    )
    config, books = self._config, self._books
    rate = optimizer.SCHEDULES[config.schedule](
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

  def _judge(self, writer: reports.Writer) -> None:
    """Evaluates, keeps the best adapter, decides whether to go on."""
    config, books, selection = self._config, self._books, self._selection
    values = self._measure()
    if values:
      writer.write(
        books.step, {f"eval_{name}": value for name, value in values.items()}
      )
    value = values.get(selection.metric)
    better = selection.better(value, books.best)
    if better:
      books.best, books.best_step, books.stale = value, books.step, 0
      self._best = jax.tree.map(jnp.copy, self._state.params)
      self._files.save_adapter(self._best)
    else:
      books.stale += 1
    logging.info(
      "train: epoch %d of %d, %s%s",
      -(-books.step // self._stream.steps_per_epoch),
      config.num_epochs,
      ", ".join(f"eval {k} {v:.5f}" for k, v in values.items())
      or "eval loss not measured",
      " (best so far)" if better else "",
    )
    patience = config.early_stopping_patience
    if patience and books.stale >= patience:
      books.finished = "early stopping"
    if books.step >= self._total_steps:
      books.finished = "epochs"

  def _measure(self) -> dict[str, float]:
    """Returns the eval loss and what selects, as far as there is one."""
    loss = self.evaluate()
    values = {} if loss is None else {selection_lib.EVAL_LOSS: loss}
    if self._selection.measure is not None:
      values[self._selection.metric] = self._selection.measure(
        self._state.params
      )
    return values

  def evaluate(self) -> float | None:
    """Returns the token-weighted mean loss over the evaluation set.

    Hugging Face Trainer averages the means of its batches, so its number
    depends on the batch size and the order; this one doesn't, and equals it
    when one batch holds all. None if there is nothing to evaluate on.
    """
    loss = self._loss(self._state.params, self._eval_batches)
    if loss is not None and not math.isfinite(loss):
      now = self._books.step
      what = f"eval loss is {loss} at step {now}"
      raise not_finite.NotFinite(what, 0, "train", moved=now > 0)
    return loss

  def _loss(
    self, adapter: Tree, several: Iterable[Sequence[packing.MicroBatch]]
  ) -> float | None:
    parts = [
      self._steps.evaluate(
        adapter,
        self._base,
        step.put_batch(self._mesh, batch),
      )
      for batches in several
      for batch in batches
    ]
    parts = jax.device_get(parts)
    count = sum(int(count) for _, count in parts)
    if not count:
      return None
    return sum(float(total) for total, _ in parts) / count

  def _traced(self, error: not_finite.NotFinite) -> not_finite.NotFinite:
    """Returns the error with what else is known of its cause.

    The best adapter so far, that of the start before any is, reads the same
    texts: where its loss is no number either, no update is to blame.
    """
    if not error.moved:
      return error
    of_step = self._given.get(error.step)
    texts = self._eval_batches if of_step is None else [of_step]
    loss = self._loss(self._best, texts)
    if loss is None or math.isfinite(loss):
      return error
    which = "best weights so far" if self._books.best_step else "first weights"
    what = f"{error.what}, and so it is with the {which}"
    return not_finite.NotFinite(what, error.step, "train", moved=False)
