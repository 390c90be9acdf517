"""Full-parameter training of a small base from scratch, for the demo.

Unlike fine-tuning, this is minutes long and not resumed: the caller writes
the base once it is finished, and a kill before that leaves none.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bigrec_jax import config as config_lib
from bigrec_jax.data.text import packing
from bigrec_jax.devices import sharding
from bigrec_jax.models import LanguageModel
from bigrec_jax.training import optimizer, reports, step
from bigrec_jax.workdir import paths as paths_lib

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
  stream: Iterator[packing.MicroBatch],
  config: config_lib.PretrainConfig,
  mesh: Mesh,
  paths: paths_lib.Paths,
  progress: reports.Progress,
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

  Returns:
    The trained parameters.

  Raises:
    UserError: the batch doesn't divide over the mesh.
    TrainingStopped: the loss is no number.
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
  with reports.open_writer(paths.pretrain_metrics, None, None) as writer:
    report = reports.StepReport(writer, progress, section="pretrain")
    for done in range(config.num_steps):
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
    report.flush()
  return state.params
