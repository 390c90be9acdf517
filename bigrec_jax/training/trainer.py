"""LoRA fine-tuning as one call: examples in, adapter and curve on disk."""

import functools
import pathlib
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh

from bigrec_jax import config as config_lib
from bigrec_jax.data.text import pipeline, source, tokenization
from bigrec_jax.devices import executor, sharding
from bigrec_jax.models import (
  Architecture,
  LanguageModel,
  hf_export,
  lora as lora_lib,
  own_weights,
)
from bigrec_jax.training import (
  coupled,
  loop,
  objective as objective_lib,
  optimizer,
  run_files,
  selection as selection_lib,
  step,
)
from bigrec_jax.workdir import paths as paths_lib, processes

Tree = Any
_CPU_TOKENS = 512  # Of a micro-batch.


def fit(
  *,
  model: LanguageModel,
  params: Tree,
  lora: Tree | None,
  train: source.TextSource,
  valid: source.TextSource,
  tokenizer: tokenization.Tokenizer,
  config: config_lib.TrainConfig,
  seed: int,
  mesh: Mesh,
  paths: paths_lib.Paths,
  fingerprint: str,
  base_name: str,
  base_fingerprint: str = "",
  objective: objective_lib.Objective | None = None,
  selection: selection_lib.Selection | None = None,
  own: own_weights.Spec | None = None,
) -> loop.FitResult:
  """Trains until `adapter/` holds the best epoch, or resumes such a run.

  Writes `adapter/`, `checkpoints/<fingerprint>/`, `metrics/train.jsonl` and
  TensorBoard events under the workdir; the best adapter is in the result too.

  Args:
    model: the language model with its adapter's configuration.
    params: the frozen base, on the mesh.
    lora: the adapter to start from, on the host or placed, maybe with the
      task's own weights; None = a fresh one by `seed`.
    train: the samples to train on.
    valid: the samples of the eval loss.
    tokenizer: of the base.
    config: section `train`.
    seed: of the fresh adapter, the order and the dropout.
    mesh: axes data, fsdp, tensor.
    paths: of the workdir.
    fingerprint: of all that the result depends on; names the checkpoints.
    base_name: what `adapter_config.json` calls the base.
    base_fingerprint: what the adapter's weights say of it.
    objective: what is minimised; None = the loss of a language model.
    selection: what decides which adapter is best; None = the eval loss.
    own: the task's own weights, fresh by `seed` where `lora` has none.

  Raises:
    UserError: a batch that doesn't divide over the mesh, no examples, a loss
      that is no number (NotFinite), or a signal came (Interrupted).
    ValueError: the model has no adapter.
  """
  if model.lora is None:
    raise ValueError("a model with the configuration of its adapter expected")
  shape = model.config, model.lora
  rows = micro_batch_rows(config, mesh)
  trained = _start(shape, model.scan_layers, lora, own, seed, mesh)
  _log_sizes(lora_lib.count(trained), lora_lib.count(params))
  objective = objective or objective_lib.LanguageModelling()
  share = objective.reads_header and shares_header(config, model)
  laid_out = (tokenizer, config, rows)
  stream = train_stream(objective, train, *laid_out, seed, share)
  batches = _eval_batches(valid, *laid_out, share)
  about = *shape, base_name, base_fingerprint, own
  write = functools.partial(_write_adapter, *about)
  files = run_files.RunFiles(paths, fingerprint, write)
  processes.on_first(files.claim)
  dropout_seed = seed if model.lora.dropout else None
  steps = make_steps(model, config, mesh, trained, dropout_seed, objective)
  return loop.TrainingRun(
    config,
    steps,
    _told(params, objective, mesh),
    trained,
    stream,
    batches,
    mesh=mesh,
    files=files,
    selection=selection,
  ).run()


def make_steps(
  model: LanguageModel,
  config: config_lib.TrainConfig,
  mesh: Mesh,
  trained: Tree,
  dropout_seed: int | None,
  objective: objective_lib.Objective,
) -> step.Steps:
  """Returns the compiled functions of a run; see `step.make_steps`."""
  return step.make_steps(
    model,
    _adamw(config),
    mesh,
    trained,
    loss_chunk=config.loss_chunk,
    dropout_seed=dropout_seed,
    objective=objective,
  )


def _adamw(config: config_lib.TrainConfig) -> optimizer.AdamW:
  return optimizer.AdamW(
    config.weight_decay, config.max_grad_norm, own_l2=config.own_l2
  )


def _told(params: Tree, objective: objective_lib.Objective, mesh: Mesh) -> Tree:
  """Returns the base, with the tables of an objective that has some."""
  if not objective.tables:
    return params
  tables = sharding.put_replicated(mesh, dict(objective.tables))
  return objective_lib.Told(params, tables)


def micro_batch_rows(config: config_lib.TrainConfig, mesh: Mesh) -> int:
  """Returns R, the rows of a micro-batch: `train.micro_batch_size` or fewer.

  Where programs run side by side on the cores of a CPU, so few tokens already
  fill a product. More rows only need more memory, leave more places of a
  step's last micro-batch empty, and divide worse over the threads.

  Raises:
    UserError: the rows don't divide over the mesh.
  """
  wanted = config.micro_batch_size
  sharding.check_batch(mesh, wanted, "config.train.micro_batch_size")
  if executor.Executor.of(mesh).runs_ahead or not config.packing:
    return wanted
  return min(wanted, max(_CPU_TOKENS // config.max_length, 1))


def shares_header(config: config_lib.TrainConfig, model: LanguageModel) -> bool:
  """Whether what all examples begin with is computed once per step.

  The flash kernels (cudnn, splash) cannot attend to a shared prefix.
  """
  return config.share_header and model.attention == "xla"


def train_stream(
  objective: objective_lib.Objective,
  train: source.TextSource,
  tokenizer: tokenization.Tokenizer,
  config: config_lib.TrainConfig,
  rows: int,
  seed: int,
  share_header: bool,
) -> pipeline.TrainStream:
  """Returns this process's part of the steps.

  Args:
    objective: which may read more than the texts.
    train: the samples.
    tokenizer: of the base.
    config: section `train`.
    rows: of a micro-batch, over all processes.
    seed: of the order.
    share_header: take the common beginning out of the examples.
  """
  views = None
  if isinstance(objective, coupled.Coupled):
    views = objective.views(train, tokenizer, config.max_length, seed)
  return pipeline.TrainStream(
    train,
    tokenizer,
    config,
    seed=seed,
    views=views,
    **_layout(rows, share_header),
  )


def _eval_batches(
  valid: source.TextSource,
  tokenizer: tokenization.Tokenizer,
  config: config_lib.TrainConfig,
  rows: int,
  share_header: bool,
) -> pipeline.EvalBatches:
  """Returns this process's part of what the eval loss is computed on."""
  size, layout = config.batch_size, _layout(rows, share_header)
  return pipeline.eval_batches(
    valid, tokenizer, config, batch_size=size, **layout
  )


def _layout(rows: int, share_header: bool) -> dict[str, Any]:
  return {
    "rows": rows,
    "share_header": share_header,
    "shard_index": jax.process_index(),
    "shard_count": jax.process_count(),
  }


def _write_adapter(
  arch: Architecture,
  lora: config_lib.LoraConfig,
  base_name: str,
  base_fingerprint: str,
  own: own_weights.Spec | None,
  directory: pathlib.Path,
  tree: Tree,
) -> None:
  beside = None
  if own is not None:
    # Gathered here, by all processes; one writes.
    host = jax.tree.map(sharding.to_host, tree.own)
    beside = functools.partial(own.write, own=host)
  hf_export.save_adapter(
    directory,
    arch,
    lora,
    own_weights.lora_of(tree),
    base_name,
    base_fingerprint,
    beside,
  )


def _log_sizes(trainable: int, frozen: int) -> None:
  logging.info(
    "train: %s trainable of %s parameters (%.3f %%)",
    f"{trainable:,}",
    f"{trainable + frozen:,}",
    100 * trainable / (trainable + frozen),
  )


def _start(
  shape: tuple[Architecture, config_lib.LoraConfig],
  scan_layers: bool,
  given: Tree | None,
  own: own_weights.Spec | None,
  seed: int,
  mesh: Mesh,
) -> Tree:
  """Returns what training starts from, placed on the mesh."""
  lora = own_weights.lora_of(given)
  if lora is None:
    lora = lora_lib.init(*shape, seed, mesh, scan_layers)
  lora = _placed(lora, lora_lib.abstract(*shape, mesh, scan_layers))
  if own is None:
    return lora
  if not isinstance(given, own_weights.Trained):
    return own_weights.Trained(lora, own.init(seed, mesh))
  return own_weights.Trained(lora, _placed(given.own, own.abstract(mesh)))


def _placed(tree: Tree, like: Tree) -> Tree:
  return jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), tree, like)
