"""A plan counts what a task's steps hold beyond plain texts."""

import types

import jax
import numpy as np
import pytest

from bigrec_jax import errors, models
from bigrec_jax.config import MeshConfig, from_config_dict
from bigrec_jax.devices import sharding
from bigrec_jax.models import own_weights
from bigrec_jax.planning import (
  arguments,
  of_task,
  plan,
  step_programs,
  topology,
)
from bigrec_jax.tasks import registry
from bigrec_jax.testing import store
from bigrec_jax.training import (
  coupled,
  objective as objective_lib,
  step,
  trainer,
)
from bigrec_jax.workdir import paths as paths_lib
from configs import lmrecsys, rsllm

ROWS, MESH = 30, MeshConfig(2, 2, 1)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  return store.tokenizer(tmp_path_factory.mktemp("tokenizer"))


def _task(config, root, tokenizer, vectors=True):
  """Returns the task of a `:tiny` config over a small store."""
  values = config.get_config("tiny")
  values.ground.cf_model, values.mesh.data, values.mesh.fsdp = "", 2, 2
  values.task.choose.candidates, values.train.first.num_epochs = 5, 0
  values.plan.parts, values.plan.search = ("train",), False
  values.plan.quick = True
  values.pretrain.vocab_size, values.train.batch_size = 300, 8
  item_vectors = np.ones((store.ITEMS, 6), np.float32)

  def cf_item_vectors(model):
    if not vectors:
      raise errors.UserError(f"{model}: not trained")
    return item_vectors

  return registry.make(
    types.SimpleNamespace(
      config=from_config_dict(values),
      paths=paths_lib.Paths(root),
      manifest=types.SimpleNamespace(fingerprint="data"),
      catalogue=store.catalogue(),
      examples=lambda split: store.examples(split, ROWS, len(split)),
      prompt=store.PROMPT,
      tokenizer=tokenizer,
      cf_item_vectors=cf_item_vectors,
    )
  )


def _net(config):
  mesh = sharding.make_mesh(MESH, jax.devices()[:4])
  arch = models.from_arch(config.model.arch, config.pretrain.vocab_size)
  return arch, arguments.network(arch, config, mesh)


def _zeros(tree):
  return jax.tree.map(
    lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding), tree
  )


def _trained(task, arch, net):
  """Returns what a run really calls: steps, state, sums, base and rows."""
  config, objective = task.store.config, task.objective()
  spec, trained = task.own_weights(arch), net.adapter
  if spec is not None:
    trained = own_weights.Trained(trained, spec.abstract(net.mesh))
  share = objective.reads_header and trainer.shares_header(
    config.train, net.model
  )
  stream = trainer.train_stream(
    objective,
    task.samples("train"),
    task.store.tokenizer,
    config.train,
    trainer.micro_batch_rows(config.train, net.mesh),
    config.seed,
    share,
  )
  dropout_seed = 0 if config.lora.dropout else None
  about = net.model, config.train, net.mesh, trained
  steps = trainer.make_steps(*about, dropout_seed, objective)
  base = _zeros(net.base)
  if objective.tables:
    tables = sharding.put_replicated(net.mesh, dict(objective.tables))
    base = objective_lib.Told(base, tables)
  return steps, *steps.init(_zeros(trained)), base, next(stream)


@pytest.mark.parametrize("config", [lmrecsys, rsllm])
def test_it_lowers_the_very_programs_of_a_step(tmp_path, tokenizer, config):
  """Packed candidates; soft tokens, own weights, the pass for contrasts."""
  task = _task(config, tmp_path, tokenizer)
  own = task.store.config
  arch, net = _net(own)
  told = of_task.read(task, arch, net.mesh, own.plan.parts)
  assert told.counts_all == (config is rsllm)  # Else evaluations aren't.
  rows = trainer.micro_batch_rows(own.train, net.mesh)
  planned = told.step(net.model, own.train, rows)
  shape = step_programs.own_shape(own, net, planned)
  made = step_programs.train(net, own, shape, planned)
  steps, state, sums, base, batches = _trained(task, arch, net)
  assert len(batches) == len(planned.batches) and not shape.prefix
  given = step.put_batch(net.mesh, planned.largest)
  if config is rsllm:
    pools, pull = steps.coupling.empty(), {}
    pool, couple = made.coupling
    lowered = steps.coupling.pool.lower(pools, state, base, given)
    assert pool.lower().as_text() == lowered.as_text()
    lowered = steps.coupling.couple.lower(sums, pools)
    assert couple.lower().as_text() == lowered.as_text()
    pull = {coupled.PULL: np.zeros(pools.sums.shape, np.float32)}
    given |= sharding.put_replicated(net.mesh, pull)
  lowered = steps.accumulate.lower(sums, state, base, given, None)
  assert made.accumulate.lower().as_text() == lowered.as_text()
  rate = sharding.put_replicated(net.mesh, np.float32(0))
  lowered = steps.apply.lower(state, sums, rate)
  assert made.apply.lower().as_text() == lowered.as_text()


@pytest.mark.slow
def test_what_a_step_computes_beyond_texts_is_counted(tmp_path, tokenizer):
  """Two passes of a micro-batch, and a forward one before."""
  task = _task(rsllm, tmp_path, tokenizer)
  own, lines = task.store.config, []
  target = topology.Target("cpu:4", tuple(jax.devices()[:4]), None)
  found = plan.Plan(own, task.store.paths, target, lines.append, task=task)
  made = found.make()
  rows = {row["name"]: row["work"] for row in made["programs"]}
  assert list(rows) == [
    *("train: pool", "train: couple", "train: accumulate", "train: apply")
  ]
  assert made["uncounted"] == [] and made["train"]["own_step"]
  share = rows["train: pool"]["flops"] / rows["train: accumulate"]["flops"]
  assert 0.2 < share < 0.5
  assert made["model"]["own_parameters"] > 0
  assert not any("not counted" in line for line in lines)
  # Without item vectors a step of plain texts is planned, and that is told.
  unknown = _task(rsllm, tmp_path, tokenizer, vectors=False)
  lines.clear()
  plan.Plan(own, unknown.store.paths, target, lines.append, task=unknown)
  assert "isn't counted: sasrec: not trained" in lines[1]
  assert "train.objective: not counted" in lines[0]
