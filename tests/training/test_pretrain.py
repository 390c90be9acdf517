import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest

from bigrec_jax import errors, progress
from bigrec_jax.training import not_finite, pretrain
from bigrec_jax.workdir import paths as paths_lib
from tests.training import tiny

STEPS = 6


class _Stream:
  """The same batch again and again: it can be learnt by heart."""

  def __init__(self, spoil_step=None, varies=False):
    self._varies = varies
    self._step = 0
    self._spoil_step = spoil_step

  def __next__(self):
    self._step += 1
    batch = tiny.batch(self._step if self._varies else 0)
    if self._step == self._spoil_step:
      batch["tokens"][:] = 10 * tiny.V
    return batch

  def get_state(self):
    return {"step": self._step}

  def set_state(self, state):
    self._step = state["step"]


def _pretrain(root, stream, bar=None, every=0):
  mesh, model, base, _ = tiny.build(with_adapter=False)
  config = dataclasses.replace(
    tiny.config().pretrain,
    num_steps=STEPS,
    batch_size=8,
    learning_rate=1e-2,
    warmup_steps=2,
    save_every_steps=every,
  )
  before = tiny.numpy_tree(base)
  params = pretrain.pretrain(
    model,
    base,
    stream,
    config,
    mesh,
    paths_lib.Paths(root),
    bar or progress.NullProgress(),
    root / "saved",
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
  with pytest.raises(not_finite.NotFinite, match="nan at step 3"):
    _pretrain(tmp_path, _Stream(spoil_step=3))


class _Killed(progress.NullProgress):
  """Ends a run at a step, by an error or a signal; knows what was skipped."""

  def __init__(self, step, number=None):
    self.step, self.skipped, self._number = step, 0, number

  def update(self, count, **_):
    self.step -= count
    if self.step == 0 and self._number is not None:
      os.kill(os.getpid(), self._number)
    elif self.step == 0:
      raise OSError("killed")

  def skip(self, count):
    self.skipped += count


@pytest.mark.parametrize(
  ("at", "number", "saved"),
  # A step is reported when the next one is under way.
  [(1, None, 0), (5, None, 4), (3, signal.SIGTERM, 4)],
)
def test_a_killed_run_goes_on_and_ends_equal(tmp_path, at, number, saved):
  whole = _pretrain(tmp_path / "whole", _Stream(varies=True))[1]
  root = tmp_path / "killed"
  error = OSError if number is None else errors.Interrupted
  with pytest.raises(error):
    _pretrain(root, _Stream(varies=True), _Killed(at, number), every=2)
  again = _Killed(STEPS + 1)
  stream = _Stream(varies=True)
  after = _pretrain(root, stream, again, every=2)[1]
  assert again.skipped == saved
  jax.tree.map(np.testing.assert_array_equal, after, whole)
  curves = [
    paths_lib.Paths(tmp_path / name).pretrain_metrics.read_text()
    for name in ("whole", "killed")
  ]
  assert curves[0] == curves[1]
