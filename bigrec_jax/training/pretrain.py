"""Full-parameter training of a small base from scratch, for the demo.

The caller writes the base once it is finished. Until then a run goes on from
its own checkpoints, and comes out as it would have without the interruption,
bit for bit.
"""

import pathlib
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from bigrec_jax import config as config_lib
from bigrec_jax.data.text import packing, text_streams
from bigrec_jax.devices import sharding
from bigrec_jax.models import LanguageModel
from bigrec_jax.training import (
  optimizer,
  reports,
  state as state_lib,
  step,
)
from bigrec_jax.workdir import checkpoints, interrupts, paths as paths_lib

Tree = Any

# Usual for language models trained from scratch (GPT-3, LLaMA): a shorter
# memory of squares than Adam's default, since gradients change fast at first.
_ADAMW = optimizer.AdamW(weight_decay=0.1, max_grad_norm=1.0, beta2=0.95)
# Positions per block of logits: with a vocabulary of a few thousand, a block
# of 8 MB stays in a CPU core's cache.
_LOSS_CHUNK = 1024


def pretrain(
  model: LanguageModel,
  params: Tree,
  stream: text_streams.TextStream,
  config: config_lib.PretrainConfig,
  mesh: Mesh,
  paths: paths_lib.Paths,
  progress: reports.Progress,
  saved: pathlib.Path,
) -> Tree:
  """Trains all parameters on packed text; cosine decay after a warm-up.

  Writes `metrics/pretrain.jsonl`, lines as in `metrics/train.jsonl`.

  Args:
    model: Llama without an adapter, float32.
    params: initial values on the mesh; kept as they are.
    stream: endless micro-batches [batch_size, max_length].
    config: section `pretrain`.
    mesh: the device mesh.
    paths: of the workdir.
    progress: counts steps.
    saved: folder of the checkpoints of exactly this run.

  Returns:
    The trained parameters.

  Raises:
    UserError: the batch doesn't divide over the mesh.
    Interrupted: a signal came; what was done is saved.
    NotFinite: the loss is no number.
  """
  rows = config.batch_size
  sharding.check_batch(mesh, rows, "config.pretrain.batch_size")
  steps = step.make_steps(
    model,
    _ADAMW,
    mesh,
    params,
    loss_chunk=_LOSS_CHUNK,
    dropout_seed=None,
    variables=step.base_variables,
  )
  state, sums = steps.init(params)
  shard = jax.process_index(), jax.process_count()
  with (
    interrupts.Watch() as watch,
    checkpoints.Checkpoints(saved, keep=1) as store,
  ):
    state, start = _restore(store, state, stream, progress)
    with reports.open_writer(
      paths.pretrain_metrics, None, start or None
    ) as writer:
      report = reports.StepReport(writer, progress, section="pretrain")
      for done in range(start, config.num_steps):
        report.begin()
        batch = next(stream)
        tokens = int(np.count_nonzero(batch["segment_ids"]))
        batch = packing.shard_rows(batch, *shard)
        sums = steps.add_up(sums, state, None, [batch])
        rate = optimizer.cosine_schedule(
          done, config.learning_rate, config.warmup_steps, config.num_steps
        )
        state, sums, metrics = steps.apply(
          state, sums, sharding.put_replicated(mesh, np.float32(rate))
        )
        report.add(done + 1, rate, metrics, tokens)
        stop = watch.asked(done + 1)
        every = config.save_every_steps
        if stop or (every and (done + 1) % every == 0):
          report.flush()  # Nothing is saved that turns out to be NaN.
          store.save(done + 1, state, stream.get_state(), {})
        if stop:
          store.wait()
          raise watch.interrupted(
            f"pretraining stopped at step {done + 1} of {config.num_steps},"
            f" saved in {store.directory}; the same command goes on from there"
          )
      report.flush()
  return state.params


def _restore(
  store: checkpoints.Checkpoints,
  state: state_lib.TrainState,
  stream: text_streams.TextStream,
  progress: reports.Progress,
) -> tuple[state_lib.TrainState, int]:
  """Returns the state to go on from, and its step; moves the stream there."""
  found = store.restore_latest(state)
  if found is None:
    return state, 0
  stream.set_state(dict(found.data))
  progress.skip(found.step)
  logging.info("pretrain: goes on after step %d", found.step)
  return found.state, found.step
