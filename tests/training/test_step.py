import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigrec_jax.devices import executor, sharding
from bigrec_jax.training import loss, optimizer, step
from tests.training import tiny

MESHES = [(8, 1, 1), (2, 2, 2), (1, 8, 1)]
ADAMW = optimizer.AdamW(weight_decay=0.0, max_grad_norm=1.0)


@functools.cache
def _steps(mesh_sizes=(1, 1, 1), dropout=0.0):
  mesh, model, base, adapter = tiny.build(mesh_sizes, dropout)
  steps = step.make_steps(
    model,
    ADAMW,
    mesh,
    adapter,
    loss_chunk=5,
    dropout_seed=3 if dropout else None,
  )
  return mesh, model, base, adapter, steps


def _run(mesh, base, adapter, steps, batches_of_steps):
  state, sums = steps.init(adapter)
  seen = []
  for batches in batches_of_steps:
    sums = steps.add_up(sums, state, base, batches)
    rate = sharding.put_replicated(mesh, np.float32(1e-2))
    state, sums, metrics = steps.apply(state, sums, rate)
    seen.append(jax.device_get(metrics))
  return state, seen


BATCHES = [[tiny.batch(0), tiny.batch(1)], [tiny.batch(2)], [tiny.batch(3)]]


@functools.cache
def _reference(dropout):
  """Result on one device."""
  mesh, _, base, adapter, steps = _steps((1, 1, 1), dropout)
  state, seen = _run(mesh, base, adapter, steps, BATCHES)
  return tiny.numpy_tree(state.params), seen


@pytest.mark.parametrize("mesh_sizes", MESHES)
def test_meshes_agree(mesh_sizes):
  """With dropout, whose masks must not depend on the mesh either."""
  expected, expected_seen = _reference(0.3)
  mesh, _, base, adapter, steps = _steps(mesh_sizes, 0.3)
  with jax.transfer_guard("disallow"):
    state, seen = _run(mesh, base, adapter, steps, BATCHES)
  for ours, theirs in zip(seen, expected_seen, strict=True):
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-4)
    np.testing.assert_allclose(
      ours["grad_norm"], theirs["grad_norm"], rtol=1e-4
    )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
    tiny.numpy_tree(state.params),
    expected,
  )


def test_two_halves_equal_one_thread():
  mesh, _, base, adapter, steps = _steps((1, 1, 1), 0.3)
  batches = [[tiny.batch(n) for n in range(5)]]
  calls = []

  def fork(*arguments):
    calls.append(arguments)
    return steps.fork(*arguments)

  watched = dataclasses.replace(steps, fork=fork)
  state, (two,) = _run(mesh, base, adapter, watched, batches)
  assert len(calls) == 1
  single = dataclasses.replace(watched, executor=executor.Executor(1))
  alone, (one,) = _run(mesh, base, adapter, single, batches)
  assert len(calls) == 1
  assert two["loss"] == pytest.approx(one["loss"], rel=1e-6)
  assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    tiny.numpy_tree(state.params),
    tiny.numpy_tree(alone.params),
  )


@pytest.mark.parametrize("bad", [0, 30])
def test_a_failure_ends_both_halves(bad):
  _, _, base, adapter, steps = _steps()
  batches = [tiny.batch(n) | {"number": np.full(8, n)} for n in range(40)]
  done = []

  def accumulate(sums, state, base, rows, header):
    number = int(rows.pop("number")[0])
    if number == bad:
      raise RuntimeError("no memory")
    done.append(number)
    time.sleep(0.02)
    return steps.accumulate(sums, state, base, rows, header)

  state, sums = steps.init(adapter)
  broken = dataclasses.replace(steps, accumulate=accumulate)
  with pytest.raises(RuntimeError, match="no memory"):
    broken.add_up(sums, state, base, batches)
  assert len(done) < 30


def test_halves_are_of_work_not_of_number():
  def sized(*lengths):
    return [{"tokens": np.zeros((2, n), np.int32)} for n in lengths]

  assert [step._middle(sized(*[8] * n)) for n in (0, 1, 2, 5)] == [0, 0, 1, 3]
  assert step._middle(sized(512, 256, 128, 128)) == 1
  assert step._middle(sized(1, 1, 1, 9)) == 3


def test_dropout_draws():
  dropped, plain = _reference(0.3)[1][0], _reference(0.0)[1][0]
  # B is zero at first, so the loss is the same and the gradient isn't.
  assert dropped["loss"] == pytest.approx(plain["loss"])
  assert dropped["grad_norm"] != pytest.approx(plain["grad_norm"], rel=1e-3)


def test_equals_one_batch_of_everything():
  """Micro-batches of unequal label counts give the global token mean."""
  mesh, model, base, adapter, steps = _steps()
  thin = tiny.batch(1)
  thin["loss_mask"][:, 5:] = 0
  _, (metrics,) = _run(mesh, base, adapter, steps, [[tiny.batch(0), thin]])

  def mean_loss(adapter):
    total, count = 0.0, 0
    for batch in (tiny.batch(0), thin):
      variables = {"params": base, "lora": adapter}
      hidden = model.apply(
        variables,
        batch["tokens"],
        batch["positions"],
        batch["segment_ids"],
        True,
      )
      logp = jax.nn.log_softmax(
        model.apply(variables, hidden, method="logits"), axis=-1
      )
      labels, mask = loss.next_token_targets(
        batch["tokens"], batch["segment_ids"], batch["loss_mask"]
      )
      picked = jnp.take_along_axis(logp, labels[..., None], -1)[..., 0]
      total += -jnp.sum(jnp.where(mask, picked, 0.0))
      count += jnp.sum(mask)
    return total / count.astype(jnp.float32)

  value, grads = jax.jit(jax.value_and_grad(mean_loss))(adapter)
  np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
  norm = optimizer.global_norm(grads)
  np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)


def test_one_compilation_per_shape_and_a_frozen_base():
  mesh, _, base, adapter, steps = _steps()
  before = tiny.numpy_tree(base)
  _run(mesh, base, adapter, steps, BATCHES)
  known = steps.accumulate._cache_size()
  short = tiny.batch(0, length=12)
  _run(mesh, base, adapter, steps, [[tiny.batch(0), short, short]] * 2)
  assert steps.accumulate._cache_size() == known + 1
  assert steps.apply._cache_size() == 1
  jax.tree.map(np.testing.assert_array_equal, tiny.numpy_tree(base), before)
  assert not jax.tree.leaves(adapter)[0].is_deleted()


def test_the_batch_logits_never_exist():
  mesh, _, base, adapter, steps = _steps()
  state, sums = steps.init(adapter)
  batch = sharding.put_batch(mesh, tiny.batch(0))
  text = str(jax.make_jaxpr(steps.accumulate)(sums, state, base, batch))
  assert f"[8,{tiny.T},{tiny.V}]" not in text


def test_evaluate_is_the_loss_without_dropout():
  mesh, _, base, adapter, steps = _steps(dropout=0.3)
  batch = sharding.put_batch(mesh, tiny.batch(0))
  total, count = steps.evaluate(adapter, base, batch)
  assert count == 7 * 24 - 4 * 3 - 7 * 2
  np.testing.assert_allclose(
    float(total) / int(count), np.log(tiny.V), rtol=0.05
  )
