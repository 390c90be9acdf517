"""Objectives of one's own, and choosing epochs by a metric of one's own."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigrec_jax.training import (
  loop,
  objective as objective_lib,
  optimizer,
  run_files,
  selection,
  step,
)
from bigrec_jax.workdir import paths as paths_lib
from tests.training import tiny


@dataclasses.dataclass(frozen=True)
class WithShrinkage:
  """A language model's loss, and a tenth of the adapter's squares a label."""

  extras: tuple[str, ...] = ("squares",)
  reads_header: bool = True

  def __call__(self, model, variables, batch, key, *, chunk, mesh, prefix):
    plain = objective_lib.LanguageModelling()
    found = plain(
      model, variables, batch, key, chunk=chunk, mesh=mesh, prefix=prefix
    )
    leaves = jax.tree.leaves(variables["lora"])
    squares = sum(jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in leaves)
    total = squares * found.count.astype(jnp.float32)
    return objective_lib.Terms(
      found.loss + jnp.float32(0.1) * total, found.count, {"squares": total}
    )


@functools.cache
def _compiled(own):
  mesh, model, base, adapter = tiny.build()
  steps = step.make_steps(
    model,
    optimizer.AdamW(0.0, 1.0),
    mesh,
    adapter,
    loss_chunk=40,
    dropout_seed=None,
    objective=WithShrinkage() if own else None,
  )
  return mesh, steps, base, adapter


def _trainer(root, own=False, chosen=None, stream=None, **train):
  mesh, steps, base, adapter = _compiled(own)

  def write(directory, tree):
    directory.mkdir(parents=True, exist_ok=True)
    np.savez(directory / "leaves.npz", *jax.tree.leaves(tiny.numpy_tree(tree)))

  files = run_files.RunFiles(paths_lib.Paths(root), "f", write)
  files.claim()
  return loop.TrainingRun(
    tiny.config(**train).train,
    steps,
    base,
    adapter,
    stream or tiny.Stream(),
    [[tiny.batch(7)]],
    mesh=mesh,
    files=files,
    selection=chosen,
  )


def _lines(root):
  text = paths_lib.Paths(root).train_metrics.read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_extras_are_summed_and_reported_under_their_names(tmp_path):
  _trainer(tmp_path / "own", own=True).run()
  _trainer(tmp_path / "plain").run()
  own, plain = _lines(tmp_path / "own")[0], _lines(tmp_path / "plain")[0]
  assert set(own) - set(plain) == {"squares"}
  leaves = jax.tree.leaves(tiny.numpy_tree(_compiled(False)[3]))
  squares = sum(float((leaf.astype(np.float64) ** 2).sum()) for leaf in leaves)
  # The mean over all labels of the step, of both micro-batches.
  np.testing.assert_allclose(own["squares"], squares, rtol=1e-5)
  expected = plain["loss"] + 0.1 * squares
  np.testing.assert_allclose(own["loss"], expected, rtol=1e-5)
  assert own["grad_norm"] != plain["grad_norm"]


class _Killed(BaseException):
  pass


def _by_norm(every_steps):
  """Selects by something that is 1, 2, 3, 2, 1, ... and higher is better."""

  def measure(adapter):
    measured.append(jax.tree.map(np.asarray, jax.device_get(adapter)))
    return values[len(measured) - 1]

  values, measured = [1.0, 2.0, 3.0, 3.0, 2.0, 1.0, 9.0], []
  chosen = selection.Selection("auc", True, measure, every_steps)
  return chosen, measured


def test_a_metric_selects_and_stops_in_place_of_the_loss(tmp_path):
  chosen, measured = _by_norm(every_steps=2)
  options = dict(num_epochs=6, early_stopping_patience=2)
  trainer = _trainer(
    tmp_path, chosen=chosen, stream=tiny.Stream(epochs=6), **options
  )
  result = trainer.run()
  # An equal value is not better: stale at steps 8 and 10.
  assert result.books == loop.Books(10, 3.0, 6, 2, "early stopping")
  lines = [x for x in _lines(tmp_path) if "eval_auc" in x]
  assert [x["step"] for x in lines] == [2, 4, 6, 8, 10]
  assert [x["eval_auc"] for x in lines] == [1.0, 2.0, 3.0, 3.0, 2.0]
  assert all("eval_loss" in x for x in lines)
  jax.tree.map(
    np.testing.assert_array_equal, measured[2], tiny.numpy_tree(result.adapter)
  )


@pytest.mark.parametrize("kill_at", [5, 7])
def test_a_run_selected_by_a_metric_resumes_bit_for_bit(tmp_path, kill_at):
  """A metric of the adapter itself, so that the resumed one is measured."""

  def measure(adapter):
    leaves = jax.tree.leaves(jax.device_get(adapter))
    return float(np.sin(1e3 * sum(np.abs(leaf).sum() for leaf in leaves)))

  chosen = selection.Selection("auc", True, measure, 2)
  _trainer(
    tmp_path / "whole", chosen=chosen, stream=tiny.Stream(epochs=3)
  ).run()

  stream = tiny.Stream(epochs=3)

  def kill(step):
    if step == kill_at:
      raise _Killed

  stream.on_step = kill
  with pytest.raises(_Killed):
    _trainer(tmp_path / "cut", chosen=chosen, stream=stream).run()
  resumed = _trainer(
    tmp_path / "cut", chosen=chosen, stream=tiny.Stream(epochs=3)
  ).run()
  assert _lines(tmp_path / "cut") == _lines(tmp_path / "whole")
  lines = [x for x in _lines(tmp_path / "cut") if "eval_auc" in x]
  # The last evaluation is at the end, be it due or not.
  assert [x["step"] for x in lines] == [2, 4, 6, 8, 9]
  best = max(lines, key=lambda x: x["eval_auc"])
  assert resumed.books.best_step == best["step"]
  with (
    np.load(tmp_path / "whole/adapter/leaves.npz") as one,
    np.load(tmp_path / "cut/adapter/leaves.npz") as other,
  ):
    for name in one.files:
      np.testing.assert_array_equal(one[name], other[name])


def test_books_of_before_selections_are_read():
  stored = {
    "step": 3,
    "best_loss": 2.0,
    "best_step": 3,
    "stale_epochs": 1,
    "finished": "",
  }
  assert loop.Books.from_json(stored) == loop.Books(3, 2.0, 3, 1, "")
