import jax
import numpy as np
import pytest

from bigrec_jax.cf import losses, networks

ITEMS, ROWS, WIDTH, NUMBER = 19, 24, 5, 7
RNG = np.random.default_rng(0)
STATES = RNG.normal(size=(NUMBER, WIDTH)).astype(np.float32)
HEAD = networks.Head(
  RNG.normal(size=(ROWS, WIDTH)).astype(np.float32),
  RNG.normal(size=ROWS).astype(np.float32),
)
TARGETS = RNG.integers(0, ITEMS, NUMBER).astype(np.int32)
SCORES = (STATES.astype(np.float64) @ HEAD.kernel.T + HEAD.bias)[:, :ITEMS]
COUNTS = RNG.integers(0, 9, ITEMS)


def _jit(function, *static):
  """A fresh program, since block sizes are read while it is traced."""
  return jax.jit(lambda *args: function(*args, *static))


def _sigmoid(x):
  return 1 / (1 + np.exp(-x))


def test_bce_and_bpr_equal_their_formulas():
  positive = np.array([0.3, -2.0, 5.0], np.float32)
  negative = np.array([[0.1, 1.0], [-3.0, 0.0], [4.0, 7.0]], np.float32)
  expected = -0.5 * (
    np.log(_sigmoid(positive))
    + np.log(1 - _sigmoid(negative.astype(np.float64))).mean(axis=1)
  )
  np.testing.assert_allclose(
    _jit(losses.bce)(positive, negative), expected, rtol=1e-5
  )
  margin = positive[:, None].astype(np.float64) - negative
  expected = -np.log(_sigmoid(margin)).mean(axis=1)
  np.testing.assert_allclose(
    _jit(losses.bpr)(positive, negative), expected, rtol=1e-5
  )


def _naive_softmax():
  return np.log(np.exp(SCORES).sum(1)) - SCORES[np.arange(NUMBER), TARGETS]


def _naive_dro(beta):
  weight = ((COUNTS + 1) / (COUNTS + 1).sum()) ** 0.05
  own = SCORES[np.arange(NUMBER), TARGETS]
  scale = weight[TARGETS] / beta
  total = np.exp(weight * SCORES**2 / beta).sum(axis=1)
  total += np.exp(scale * (own - 1) ** 2) - np.exp(scale * own**2)
  return np.log(total + 1e-24)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("limit", [1 << 26, 60])
def test_softmax_and_dro_equal_their_formulas_in_any_blocks(
  monkeypatch, shards, limit
):
  # 60 scores at a time: 7 predictions see 24 rows in 3 or more blocks.
  monkeypatch.setattr(losses, "_BLOCK_SCORES", limit)
  weights = losses.propensity(COUNTS)
  np.testing.assert_allclose(
    _jit(losses.softmax, ITEMS, shards)(HEAD, STATES, TARGETS),
    _naive_softmax(),
    rtol=1e-4,
  )
  np.testing.assert_allclose(
    _jit(losses.dro, 1.5, shards)(HEAD, STATES, TARGETS, weights),
    _naive_dro(1.5),
    rtol=1e-4,
  )


@pytest.mark.parametrize("name", ["softmax", "dro"])
def test_gradients_do_not_depend_on_the_blocks(monkeypatch, name):
  weights = losses.propensity(COUNTS)

  def total(head, states):
    if name == "softmax":
      return losses.softmax(head, states, TARGETS, ITEMS, 1).sum()
    return losses.dro(head, states, TARGETS, weights, 1.0, 1).sum()

  whole = jax.jit(jax.grad(total, (0, 1)))(HEAD, STATES)
  monkeypatch.setattr(losses, "_BLOCK_SCORES", 60)
  parts = jax.jit(lambda h, s: jax.grad(total, (0, 1))(h, s))(HEAD, STATES)
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  # Rows that are no items are never touched.
  assert not np.asarray(whole[0].kernel[ITEMS:]).any()


def test_dro_survives_scores_whose_exponential_overflows():
  states = (STATES * 20).astype(np.float32)
  value = _jit(losses.dro, 1.0, 1)(
    HEAD, states, TARGETS, losses.propensity(COUNTS)
  )
  assert np.isfinite(np.asarray(value)).all()
  assert np.asarray(value).max() > 88  # exp(88) is float32's largest power.


def test_sampled_softmax_estimates_the_full_denominator():
  """Over many draws the mean of exp(loss + y+) is the sum of all exp(y)."""
  proposal = losses.make_proposal(COUNTS, 0.75)
  draws = 4000
  place = np.asarray(_jit(losses._sample, (draws, 11))(np.uint32(0), proposal))
  row = 2
  target = TARGETS[row]
  loss = _jit(losses.sampled_softmax)(
    np.full(draws, SCORES[row, target], np.float32),
    SCORES[row][place].astype(np.float32),
    proposal.log_probability[place],
    place == target,
  )
  estimate = np.exp(np.asarray(loss, np.float64) + SCORES[row, target])
  exact = np.exp(SCORES[row]).sum()
  error = estimate.std() / np.sqrt(draws)
  assert abs(estimate.mean() - exact) < 4 * error
  assert error < 0.05 * exact


@pytest.mark.parametrize("power", [0.0, 0.75])
def test_the_alias_table_draws_the_proposal(power):
  proposal = losses.make_proposal(COUNTS, power)
  weight = (COUNTS + 1.0) ** power
  expected = weight / weight.sum()
  np.testing.assert_allclose(
    np.exp(proposal.log_probability), expected, rtol=1e-5
  )
  # The table gives item i by its own place and by the places it is alias of.
  found = proposal.accept.astype(np.float64)
  np.add.at(found, proposal.alias, 1 - proposal.accept.astype(np.float64))
  np.testing.assert_allclose(found / ITEMS, expected, rtol=1e-5)


def test_forbidden_items_are_not_drawn():
  proposal = losses.make_proposal(COUNTS, 0.0)
  forbidden = np.tile(np.array([[3, 4, -1]], np.int32), (5, 1))
  drawn = np.asarray(_jit(losses.draw, 400)(np.uint32(1), proposal, forbidden))
  # Each draw has four tries: (2 / 19) ** 4 = 1.2e-4 of 2000.
  assert np.isin(drawn, [3, 4]).sum() <= 3
  assert len(np.unique(drawn)) >= ITEMS - 2
