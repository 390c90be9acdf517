"""Fine-tuning learns on a quantised base what it learns on a bfloat16 one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigrec_jax import models
from bigrec_jax.devices import sharding
from bigrec_jax.models import hf_import, lora, quantize
from bigrec_jax.training import optimizer, step
from tests.training import tiny

STEPS = 40


def _base(kind, mesh):
  base = hf_import.init_base(tiny.LLAMA, 0, "bfloat16", mesh)
  # As large as trained weights are: what the layers do then matters.
  base = jax.tree.map(lambda x: (4 * x).astype(x.dtype), base)
  if kind == "none":
    return base
  convert = jax.jit(functools.partial(quantize.quantize, kind=kind))

  def maybe(path, leaf):
    is_kernel = path[0].key == "layers" and path[-1].key == "kernel"
    return convert(leaf) if is_kernel else leaf

  return jax.tree_util.tree_map_with_path(maybe, base)


@functools.cache
def _curve(kind, seed):
  """Returns the loss of each optimizer step on the same two batches."""
  mesh = sharding.single_device_mesh()
  config = tiny.lora_config(0.0)
  model = models.build(tiny.LLAMA, tiny.config().model, config, mesh)
  model = model.clone(dtype=jnp.bfloat16)
  base = _base(kind, mesh)
  adapter = lora.init(tiny.LLAMA, config, seed, mesh)
  steps = step.make_steps(
    model,
    optimizer.AdamW(0.0, 1.0),
    mesh,
    adapter,
    loss_chunk=40,
    dropout_seed=None,
  )
  state, sums = steps.init(adapter)
  batches = [tiny.batch(n) for n in range(2)]
  losses = []
  for _ in range(STEPS):
    sums = steps.add_up(sums, state, base, batches)
    state, sums, found = steps.apply(state, sums, jnp.float32(5e-3))
    losses.append(float(found["loss"]))
  return np.array(losses)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_loss_curve_is_within_the_noise_of_bfloat16(kind):
  curves = np.array([_curve("none", seed) for seed in range(3)])
  assert (curves[:, 0] - curves[:, -5:].mean(axis=1)).min() > 0.5  # It learns.
  # Noise: how far runs are apart that differ in the adapter's first weights.
  noise = (curves.max(axis=0) - curves.min(axis=0))[5:].mean()
  apart = np.abs(_curve(kind, 0) - curves[0])
  assert 0 < apart.max()
  assert apart[5:].mean() < noise
