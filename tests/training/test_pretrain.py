import dataclasses
import json

import jax
import numpy as np
import pytest

from bigrec_jax import progress
from bigrec_jax.training import interruption, pretrain
from bigrec_jax.workdir import paths as paths_lib
from tests.training import tiny

STEPS = 6


class _Stream:
  """The same batch again and again: it can be learnt by heart."""

  def __init__(self, spoil_step=None):
    self._step = 0
    self._spoil_step = spoil_step

  def __next__(self):
    self._step += 1
    batch = tiny.batch(0)
    if self._step == self._spoil_step:
      batch["tokens"][:] = 10 * tiny.V
    return batch


def _pretrain(root, stream):
  mesh, model, base, _ = tiny.build(with_adapter=False)
  config = dataclasses.replace(
    tiny.config().pretrain,
    num_steps=STEPS,
    batch_size=8,
    learning_rate=1e-2,
    warmup_steps=2,
  )
  before = tiny.numpy_tree(base)
  params = pretrain.pretrain(
    model,
    base,
    stream,
    config,
    mesh,
    paths_lib.Paths(root),
    progress.NullProgress(),
  )
  jax.tree.map(np.testing.assert_array_equal, tiny.numpy_tree(base), before)
  return before, tiny.numpy_tree(params)


def test_everything_is_trained_and_the_loss_falls(tmp_path):
  before, after = _pretrain(tmp_path, _Stream())
  moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, after)
  assert all(jax.tree.leaves(moved))
  text = paths_lib.Paths(tmp_path).pretrain_metrics.read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  assert [x["step"] for x in lines] == list(range(1, STEPS + 1))
  assert lines[0]["loss"] == pytest.approx(np.log(tiny.V), rel=0.05)
  assert lines[-1]["loss"] < lines[0]["loss"] - 0.3


def test_nan_names_the_step(tmp_path):
  with pytest.raises(interruption.TrainingStopped, match="nan at step 3"):
    _pretrain(tmp_path, _Stream(spoil_step=3))
