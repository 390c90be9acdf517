import functools
import json
import math
import os
import pathlib
import signal

import jax
import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.devices import sharding
from bigrec_jax.training import loop, not_finite, optimizer, run_files, step
from bigrec_jax.workdir import paths as paths_lib
from tests.training import tiny

EVAL = [[tiny.batch(7)], [tiny.batch(8)]]
DROPOUT = 0.2


@functools.cache
def _compiled(mesh_sizes):
  mesh, model, base, adapter = tiny.build(mesh_sizes, DROPOUT)
  steps = step.make_steps(
    model,
    optimizer.AdamW(0.0, 1.0),
    mesh,
    adapter,
    loss_chunk=40,
    dropout_seed=5,
  )
  return mesh, steps, base, adapter


def _trainer(
  root, mesh_sizes=(1, 1, 1), stream=None, evaluation=EVAL, name="f", **train
):
  mesh, steps, base, adapter = _compiled(mesh_sizes)

  def write(directory, tree):
    directory.mkdir(parents=True, exist_ok=True)
    np.savez(directory / "leaves.npz", *jax.tree.leaves(tiny.numpy_tree(tree)))

  files = run_files.RunFiles(paths_lib.Paths(root), name, write)
  files.claim()
  return loop.TrainingRun(
    tiny.config(**train).train,
    steps,
    base,
    adapter,
    stream or tiny.Stream(),
    evaluation,
    mesh=mesh,
    files=files,
  )


def _lines(root):
  text = paths_lib.Paths(root).train_metrics.read_text()
  return [json.loads(line) for line in text.splitlines()]


def _adapter(root):
  with np.load(paths_lib.Paths(root).adapter / "leaves.npz") as file:
    return [file[name] for name in file.files]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
  root = tmp_path_factory.mktemp("whole")
  result = _trainer(root).run()
  return root, result


def test_the_curve_is_as_promised(uninterrupted):
  root, result = uninterrupted
  lines = _lines(root)
  steps = [x for x in lines if "loss" in x]
  evals = [x for x in lines if "eval_loss" in x]
  assert [x["step"] for x in steps] == [1, 2, 3, 4, 5, 6]
  assert all(
    set(x) == {"step", "loss", "learning_rate", "grad_norm"} for x in steps
  )
  assert [set(x) for x in evals] == [{"step", "eval_loss"}] * 2
  assert [x["step"] for x in evals] == [3, 6]
  rates = [optimizer.linear_schedule(s, 1e-2, 2, 6) for s in range(6)]
  assert [x["learning_rate"] for x in steps] == rates
  assert result.books.finished == "epochs"
  assert result.books.best == min(x["eval_loss"] for x in evals)
  assert result.tokens == tiny.Stream().num_steps * 2 * (7 * 24 - 4 * 3)
  assert list(paths_lib.Paths(root).tensorboard.rglob("events*"))


def test_the_first_loss_is_the_mean_over_the_step(uninterrupted):
  root, _ = uninterrupted
  mesh, steps, base, adapter = _compiled((1, 1, 1))
  total, count = 0.0, 0
  for batch in next(tiny.Stream()):
    one, n = steps.evaluate(adapter, base, sharding.put_batch(mesh, batch))
    total, count = total + float(one), count + int(n)
  np.testing.assert_allclose(_lines(root)[0]["loss"], total / count, rtol=1e-5)


class _Killed(BaseException):
  pass


@pytest.mark.parametrize("kill_at", [2, 4, 5, 6])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, uninterrupted, kill_at):
  """With dropout, in the middle of epochs, checkpoints every two steps."""
  stream = tiny.Stream()

  def kill(step):
    if step == kill_at:
      raise _Killed

  stream.on_step = kill
  with pytest.raises(_Killed):
    _trainer(tmp_path, stream=stream, save_every_steps=2).run()
  _trainer(tmp_path, save_every_steps=2).run()
  root, _ = uninterrupted
  assert _lines(tmp_path) == _lines(root)
  for ours, theirs in zip(_adapter(tmp_path), _adapter(root), strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_a_run_goes_on_with_another_mesh(tmp_path, uninterrupted):
  stream = tiny.Stream()
  stream.on_step = lambda step: os.kill(os.getpid(), signal.SIGTERM)
  with pytest.raises(errors.Interrupted):
    _trainer(tmp_path, stream=stream).run()
  _trainer(tmp_path, (2, 2, 2)).run()
  root, _ = uninterrupted
  for ours, theirs in zip(_lines(tmp_path), _lines(root), strict=True):
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_sigterm_saves_says_where_and_stops(tmp_path, uninterrupted):
  stream = tiny.Stream()
  former = signal.getsignal(signal.SIGTERM)

  def terminate(step):
    if step == 2:
      os.kill(os.getpid(), signal.SIGTERM)

  stream.on_step = terminate
  with pytest.raises(errors.Interrupted, match="SIGTERM.* at step 2") as error:
    _trainer(tmp_path, stream=stream).run()
  assert error.value.status == 143
  assert signal.getsignal(signal.SIGTERM) is former
  assert [x["step"] for x in _lines(tmp_path)] == [1, 2]
  _trainer(tmp_path).run()
  assert _lines(tmp_path) == _lines(uninterrupted[0])


def test_nan_stops_with_the_step_and_is_never_saved(tmp_path):
  with pytest.raises(not_finite.NotFinite) as error:
    _trainer(tmp_path, stream=tiny.Stream(spoil_step=4)).run()
  assert str(error.value).startswith(
    "training: loss is nan at step 4, and so it is with the best weights so"
    " far, so the learning rate is not the cause: "
  )
  assert [x["step"] for x in _lines(tmp_path)] == [1, 2, 3, 3]
  checkpoints = paths_lib.Paths(tmp_path).checkpoints / "f"
  assert [p.name for p in checkpoints.iterdir() if p.is_dir()] == ["3"]


def _why(tmp_path, **changes):
  with pytest.raises(not_finite.NotFinite) as error:
    _trainer(tmp_path, **changes).run()
  return str(error.value)


def test_the_learning_rate_is_not_blamed_for_the_base(tmp_path):
  """Nor is the first step after a warm-up that began at 0."""
  for number in (1, 2):
    spoilt = tiny.Stream(spoil_step=number)
    line = _why(tmp_path / str(number), stream=spoilt)
    assert line.startswith(f"training: loss is nan at step {number}, ")
    assert "learning rate is not the cause" in line and "rope_theta" in line
    assert "train.learning_rate" not in line


def test_the_learning_rate_is_blamed_where_it_is_the_cause(
  tmp_path, monkeypatch
):
  # The update itself overflows; the same texts are fine before.
  monkeypatch.setitem(optimizer.SCHEDULES, "linear", lambda *_: 1e38)
  line = _why(tmp_path)
  assert "after updates; a lower config.train.learning_rate expected" in line
  assert "not the cause" not in line


def test_early_stopping_keeps_the_best(tmp_path, monkeypatch):
  """Equal is not better; the adapter is that of the best epoch."""
  losses = iter([3.0, 2.0, 2.5, 2.0, 1.0])
  monkeypatch.setattr(loop.TrainingRun, "evaluate", lambda self: next(losses))
  options = dict(num_epochs=5, early_stopping_patience=2)
  trainer = _trainer(tmp_path, stream=tiny.Stream(epochs=5), **options)
  result = trainer.run()
  assert result.books == loop.Books(12, 2.0, 6, 2, "early stopping")
  assert next(losses) == 1.0  # The fifth epoch never ran.
  best = jax.tree.leaves(tiny.numpy_tree(result.adapter))
  for ours, theirs in zip(_adapter(tmp_path), best, strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_a_finished_run_does_nothing_but_restore_its_adapter(
  tmp_path, uninterrupted
):
  root, _ = uninterrupted
  before = _lines(root)
  expected = _adapter(root)
  (paths_lib.Paths(root).adapter / "leaves.npz").unlink()
  stream = tiny.Stream()
  stream.on_step = lambda step: pytest.fail("trained again")
  result = _trainer(root, stream=stream).run()
  assert result.books.finished == "epochs"
  assert _lines(root) == before
  for ours, theirs in zip(_adapter(root), expected, strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_a_damaged_checkpoint_costs_its_steps_only(
  tmp_path, uninterrupted, caplog
):
  _trainer(tmp_path).run()
  folder = paths_lib.Paths(tmp_path).checkpoints / "f" / "6"
  biggest = max(
    (p for p in folder.rglob("*") if p.is_file()),
    key=lambda p: p.stat().st_size,
  )
  biggest.write_bytes(b"")
  _trainer(tmp_path).run()
  assert "can't be read" in caplog.text
  assert _lines(tmp_path) == _lines(uninterrupted[0])


def test_runs_of_other_options_do_not_mix(tmp_path):
  _trainer(tmp_path, name="one").run()
  first, adapter = _lines(tmp_path), _adapter(tmp_path)
  _trainer(tmp_path, name="two", learning_rate=2e-2).run()
  assert _lines(tmp_path) != first
  assert len(_lines(tmp_path)) == len(first)
  _trainer(tmp_path, name="one").run()  # Finished: nothing is trained.
  assert _lines(tmp_path) == first
  for ours, theirs in zip(_adapter(tmp_path), adapter, strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_without_evaluation_the_last_epoch_is_kept(tmp_path):
  result = _trainer(tmp_path, evaluation=[]).run()
  assert result.books.best_step == 6
  assert not [x for x in _lines(tmp_path) if "eval_loss" in x]


def test_the_loop_moves_nothing_to_the_device_unasked(tmp_path):
  """Implicit transfers would wait for the device in every step."""
  with jax.transfer_guard("disallow"):
    _trainer(tmp_path).run()


def test_profile_is_written(tmp_path):
  _trainer(tmp_path, profile_steps=2).run()
  assert list((tmp_path / "tensorboard").rglob("*.xplane.pb"))


def test_eval_loss_weighs_tokens_not_batches(tmp_path):
  thin = tiny.batch(9)
  thin["loss_mask"][:, 3:] = 0
  trainer = _trainer(tmp_path, evaluation=[[tiny.batch(7), thin]])
  mesh, steps, base, adapter = _compiled((1, 1, 1))
  parts = [
    steps.evaluate(adapter, base, sharding.put_batch(mesh, b))
    for b in (tiny.batch(7), thin)
  ]
  expected = sum(float(t) for t, _ in parts) / sum(int(n) for _, n in parts)
  assert math.isclose(trainer.evaluate(), expected, rel_tol=1e-6)
  assert not pathlib.Path(paths_lib.Paths(tmp_path).train_metrics).exists()
