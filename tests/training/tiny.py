"""A tiny LLaMA, batches and a stream for the training tests."""

import dataclasses
import functools
import math

import jax
import numpy as np

from bigrec_jax import config as config_lib, models
from bigrec_jax.devices import sharding
from bigrec_jax.models import hf_import, lora
from configs import common

V, T = 61, 24


def config(**train):
  """Returns the whole default configuration with changes in `train`."""
  values = common.get_config()
  values.train.update(
    {
      "batch_size": 8,
      "micro_batch_size": 8,
      "num_epochs": 2,
      "warmup_steps": 2,
      "learning_rate": 1e-2,
      "loss_chunk": 40,
      "max_length": T,
    }
    | train
  )
  return config_lib.from_config_dict(values)


LLAMA = models.from_arch(
  dataclasses.replace(
    config().model.arch,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
  ),
  V,
)


def lora_config(dropout):
  """Returns a rank-3 adapter's configuration."""
  return dataclasses.replace(config().lora, dropout=dropout, rank=3)


@functools.cache
def _weights():
  # On one device: drawing on eight takes seconds to compile.
  mesh = sharding.single_device_mesh()
  base = hf_import.init_base(LLAMA, 0, "float32", mesh)
  return numpy_tree((base, lora.init(LLAMA, lora_config(0.0), 1, mesh)))


def build(mesh_sizes=(1, 1, 1), dropout=0.0, with_adapter=True):
  """Returns (mesh, model, base, adapter)."""
  devices = jax.devices()[: math.prod(mesh_sizes)]
  mesh = sharding.make_mesh(config_lib.MeshConfig(*mesh_sizes), devices)
  adapter_config = lora_config(dropout)
  model = models.build(
    LLAMA, config().model, adapter_config if with_adapter else None, mesh
  )
  like = hf_import.abstract_base(LLAMA, "float32", mesh)
  like = (like, lora.abstract(LLAMA, adapter_config, mesh))
  base, adapter = jax.tree.map(
    lambda x, y: jax.device_put(x, y.sharding), _weights(), like
  )
  return mesh, model, base, adapter


def batch(seed, rows=8, length=T):
  """Returns one packed micro-batch; the last row is empty."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(1, V, (rows, length)).astype(np.int32)
  segment_ids = np.ones((rows, length), np.int32)
  segment_ids[:, length // 2 :] = 2
  segment_ids[::2, -3:] = 0
  segment_ids[-1] = 0
  positions = np.arange(length, dtype=np.int32)[None].repeat(rows, 0)
  positions[:, length // 2 :] -= length // 2
  mask = (segment_ids > 0).astype(np.int32)
  mask[:, 0] = mask[:, length // 2] = 0
  tokens[segment_ids == 0] = 0
  return {
    "tokens": tokens,
    "positions": positions,
    "segment_ids": segment_ids,
    "loss_mask": mask,
  }


class Stream:
  """Stands for pipeline.TrainStream: two micro-batches a step."""

  steps_per_epoch = 3

  def __init__(self, epochs=2, spoil_step=None):
    self.num_steps = epochs * self.steps_per_epoch
    self.step = 0
    self.tokens = 0
    self._spoil_step = spoil_step
    self.on_step = lambda step: None

  def __next__(self):
    if self.step >= self.num_steps:
      raise StopIteration
    self.step += 1
    self.on_step(self.step)
    batches = [batch(100 * self.step + m) for m in range(2)]
    if self.step == self._spoil_step:
      batches[0]["tokens"][:] = 10 * V  # Embeds as NaN.
    self.tokens += sum(int((b["segment_ids"] > 0).sum()) for b in batches)
    return batches

  def get_state(self):
    return {"step": self.step, "tokens": self.tokens}

  def set_state(self, state):
    self.step, self.tokens = state["step"], state["tokens"]


def numpy_tree(tree):
  """Returns the tree on the host."""
  return jax.tree.map(np.asarray, jax.device_get(tree))
