import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigrec_jax.training import optimizer

RATE, DECAY, CLIP = 3e-3, 0.1, 1.0


def _problem(steps=7):
  rng = np.random.default_rng(5)
  params = {"a": rng.normal(size=(3, 5)), "b": rng.normal(size=(7,))}
  grads = [
    {k: rng.normal(size=v.shape) * scale for k, v in params.items()}
    for scale in np.geomspace(1e-3, 10, steps)
  ]

  def single(tree):
    return {k: v.astype(np.float32) for k, v in tree.items()}

  return single(params), [single(g) for g in grads]


def _run(params, grads):
  adamw = optimizer.AdamW(weight_decay=DECAY, max_grad_norm=CLIP)
  state, norms = adamw.init(params), []
  update = jax.jit(adamw.update)
  for step, grad in enumerate(grads):
    params, state, norm = update(
      params, grad, state, jnp.int32(step), jnp.float32(RATE)
    )
    norms.append(float(norm))
  return params, norms


def test_equals_the_formula_in_float64():
  params, grads = _problem()
  ours, norms = _run(params, grads)
  theirs = {k: v.astype(np.float64) for k, v in params.items()}
  m = {k: np.zeros_like(v) for k, v in theirs.items()}
  v = {k: np.zeros_like(v) for k, v in theirs.items()}
  for t, grad in enumerate(grads, start=1):
    norm = math.sqrt(
      sum((g.astype(np.float64) ** 2).sum() for g in grad.values())
    )
    np.testing.assert_allclose(norms[t - 1], norm, rtol=1e-5)
    for key, g in grad.items():
      g = g * min(1.0, CLIP / (norm + 1e-6))
      theirs[key] *= 1 - RATE * DECAY
      m[key] = 0.9 * m[key] + 0.1 * g
      v[key] = 0.999 * v[key] + 0.001 * g * g
      root = np.sqrt(v[key] / (1 - 0.999**t)) + 1e-8
      theirs[key] -= RATE * (m[key] / (1 - 0.9**t)) / root
  for key in params:
    np.testing.assert_allclose(ours[key], theirs[key], atol=1e-5)


@pytest.mark.torch
def test_equals_torch():
  torch = pytest.importorskip("torch")
  params, grads = _problem()
  ours, norms = _run(params, grads)
  leaves = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in params.items()}
  theirs = torch.optim.AdamW(leaves.values(), lr=RATE, weight_decay=DECAY)
  for grad, norm in zip(grads, norms, strict=True):
    for key, leaf in leaves.items():
      leaf.grad = torch.tensor(grad[key])
    expected = torch.nn.utils.clip_grad_norm_(leaves.values(), CLIP)
    np.testing.assert_allclose(norm, float(expected), rtol=1e-5)
    theirs.step()
  for key, leaf in leaves.items():
    np.testing.assert_allclose(ours[key], leaf.detach().numpy(), atol=1e-5)


def test_linear_schedule_starts_at_zero_and_ends_at_zero():
  rates = [optimizer.linear_schedule(s, 1e-4, 20, 400) for s in range(401)]
  assert rates[0] == 0
  assert rates[1] == 1e-4 * (1 / 20)
  assert rates[20] == 1e-4
  assert rates[210] == 1e-4 * 0.5
  assert rates[400] == 0
  assert optimizer.linear_schedule(0, 1e-4, 0, 8) == 1e-4


@pytest.mark.torch
def test_linear_schedule_equals_transformers():
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  leaf = torch.nn.Parameter(torch.zeros(1))
  adamw = torch.optim.AdamW([leaf], lr=3e-4)
  schedule = transformers.get_linear_schedule_with_warmup(adamw, 7, 31)
  for step in range(31):
    expected = schedule.get_last_lr()[0]
    assert optimizer.linear_schedule(step, 3e-4, 7, 31) == expected
    adamw.step()
    schedule.step()


def test_cosine_schedule_moves_at_once_and_keeps_a_tenth():
  rates = [optimizer.cosine_schedule(s, 1.0, 10, 110) for s in range(111)]
  assert rates[0] == 0.1
  assert rates[9] == rates[10] == 1.0
  np.testing.assert_allclose(rates[60], 0.55)
  np.testing.assert_allclose(rates[110], 0.1)
