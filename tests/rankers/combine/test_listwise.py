"""Newton's weights against scipy's minimiser of the loss as it is written."""

import numpy as np
import pytest
from scipy import optimize

from bigrec_jax.rankers.combine import listwise


def _users(seed, count=150, slots=12, columns=4, gates=2):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(count, slots, columns))
  real = rng.random((count, slots)) < 0.8
  z = rng.normal(size=(count, gates))
  true = rng.normal(size=(1 + gates, columns))
  mixed = np.concatenate([np.ones((count, 1)), z], axis=1) @ true
  scores = np.einsum("nsf,nf->ns", x, mixed) + rng.gumbel(size=(count, slots))
  taken = np.where(real, scores, -np.inf).argmax(axis=1)
  real[np.arange(count), taken] = True
  return x, real, z, taken


def _slow_loss(weights, x, real, z, taken, included, penalty):
  """Returns the loss by a loop over users, in float64."""
  weights = weights.reshape(penalty.shape)
  total = 0.0
  for n in np.flatnonzero(included):
    own = weights[0] + sum(z[n, g] * weights[1 + g] for g in range(z.shape[1]))
    scores = x[n] @ own
    kept = scores[real[n]]
    total -= scores[taken[n]] - np.log(np.exp(kept).sum())
  return total + 0.5 * (penalty * weights**2).sum()


@pytest.mark.parametrize("gates", [0, 2])
def test_weights_are_those_of_the_least_loss(gates):
  x, real, z, taken = _users(1, gates=gates)
  included = np.random.default_rng(2).random(len(taken)) < 0.7
  penalty = np.full((1 + gates, 4), 2.0)
  penalty[0, 1] = 0.01
  own = listwise.fit(
    listwise.data(x, real, z, taken), included, penalty, np.zeros_like(penalty)
  )
  slow = optimize.minimize(
    _slow_loss,
    np.zeros(penalty.size),
    (x, real, z, taken, included, penalty),
    method="BFGS",
  )
  np.testing.assert_allclose(own.ravel(), slow.x, rtol=0, atol=2e-3)
  value = _slow_loss(own, x, real, z, taken, included, penalty)
  assert value <= slow.fun + 1e-4 * included.sum()


def test_a_start_elsewhere_ends_at_the_same_weights():
  users = listwise.data(*_users(3))
  included, penalty = np.ones(150, bool), np.full((3, 4), 1.0)
  one, other = (
    listwise.fit(users, included, penalty, np.full((3, 4), start))
    for start in (0.0, 1.0)
  )
  np.testing.assert_allclose(one, other, atol=2e-3)


def test_nobody_and_a_column_of_one_value_leave_weights_at_zero():
  x, real, z, taken = _users(4)
  x[:, :, 2] = 0.0
  users, penalty = listwise.data(x, real, z, taken), np.full((3, 4), 1.0)
  weights = listwise.fit(users, np.ones(150, bool), penalty, np.zeros((3, 4)))
  assert not weights[:, 2].any() and weights[:, 1].all()
  nobody = listwise.fit(users, np.zeros(150, bool), penalty, np.zeros((3, 4)))
  assert not nobody.any()
