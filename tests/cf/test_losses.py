import math
import re

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bigrec_jax.cf import log_sums, losses, networks
from bigrec_jax.config import MeshConfig
from bigrec_jax.devices import sharding

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


def _mesh(sizes=(1, 1, 1)):
  return sharding.make_mesh(
    MeshConfig(*sizes), devices=jax.devices()[: math.prod(sizes)]
  )


def _small_blocks(monkeypatch):
  """Three predictions at a time, whatever the catalogue."""
  monkeypatch.setattr(log_sums, "_predictions", lambda mesh, rows: 3)


WEIGHTS = RNG.uniform(0.5, 2.0, NUMBER).astype(np.float32)
# Devices of data, fsdp and tensor: predictions are split over the first, the
# table's rows over the other two.
MESHES = [(1, 1, 1), (2, 1, 1), (1, 2, 2), (2, 2, 1)]


@pytest.mark.parametrize("sizes", MESHES)
@pytest.mark.parametrize("small", [False, True])
def test_softmax_and_dro_equal_their_formulas_in_any_blocks(
  monkeypatch, small, sizes
):
  if small:
    _small_blocks(monkeypatch)
  mesh = _mesh(sizes)
  np.testing.assert_allclose(
    _jit(losses.softmax, ITEMS, mesh)(HEAD, STATES, TARGETS, WEIGHTS),
    WEIGHTS @ _naive_softmax(),
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    _jit(losses.dro, 1.5, mesh)(
      HEAD, STATES, TARGETS, WEIGHTS, losses.propensity(COUNTS)
    ),
    WEIGHTS @ _naive_dro(1.5),
    rtol=1e-5,
  )


def _plain_softmax(head, states):
  scores = (states @ head.kernel.T + head.bias[None])[:, :ITEMS]
  own = scores[np.arange(NUMBER), TARGETS]
  return WEIGHTS @ (jax.nn.logsumexp(scores, axis=1) - own)


def _plain_dro(head, states):
  scores = (states @ head.kernel.T + head.bias[None])[:, :ITEMS]
  error = scores - jax.nn.one_hot(TARGETS, ITEMS)
  exponent = losses.propensity(COUNTS)[None] * error**2 / 1.5
  return WEIGHTS @ jax.nn.logsumexp(exponent, axis=1)


@pytest.mark.parametrize("sizes", MESHES)
@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("name", ["softmax", "dro"])
def test_gradients_equal_those_of_the_plain_formula(
  monkeypatch, name, small, sizes
):
  if small:
    _small_blocks(monkeypatch)
  mesh = _mesh(sizes)

  def total(head, states):
    given = head, states, TARGETS, WEIGHTS
    if name == "softmax":
      return 0.5 * losses.softmax(*given, ITEMS, mesh)
    return 0.5 * losses.dro(*given, losses.propensity(COUNTS), 1.5, mesh)

  plain = {"softmax": _plain_softmax, "dro": _plain_dro}[name]
  expected = jax.jit(jax.value_and_grad(plain, (0, 1)))(HEAD, STATES)
  got = jax.jit(jax.value_and_grad(total, (0, 1)))(HEAD, STATES)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(2 * a, b, rtol=1e-4, atol=1e-5)
  # Rows that are no items are never touched.
  assert not np.asarray(got[1][0].kernel[ITEMS:]).any()


def test_several_runs_are_mapped_in_one_program(monkeypatch):
  _small_blocks(monkeypatch)
  mesh = _mesh()
  runs = [networks.Head(k * HEAD.kernel, HEAD.bias) for k in (1, -1, 2)]
  heads = jax.tree.map(lambda *x: np.stack(x), *runs)

  def total(head):
    return losses.softmax(head, STATES, TARGETS, WEIGHTS, ITEMS, mesh)

  got = jax.jit(jax.vmap(jax.grad(total)))(heads)
  for kernel, head in zip(got.kernel, runs, strict=True):
    alone = jax.jit(jax.grad(total))(head)
    np.testing.assert_allclose(kernel, alone.kernel, rtol=1e-4, atol=1e-5)


def test_no_table_and_no_scores_of_all_predictions_cross_devices(monkeypatch):
  """Rows and predictions stay where they are; blocks send what is small."""
  _small_blocks(monkeypatch)
  mesh = _mesh((2, 2, 1))
  rows, width, number = 4096, 16, 60
  table = NamedSharding(mesh, PartitionSpec(networks.TABLE_AXES))
  batch = NamedSharding(mesh, PartitionSpec("data"))

  def shape(placed, *sizes, dtype=np.float32):
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=placed)

  def total(head, states, targets, weights):
    return losses.softmax(head, states, targets, weights, rows - 3, mesh)

  compiled = (
    jax.jit(jax.grad(total, (0, 1)))
    .lower(
      networks.Head(shape(table, rows, width), shape(table, rows)),
      shape(batch, number, width),
      shape(batch, number, dtype=np.int32),
      shape(batch, number),
    )
    .compile()
  )
  moved = {True: [], False: []}  # By whether it is sent for each block.
  for line in compiled.as_text().splitlines():
    if found := re.search(r"= (.*?) all-(gather|reduce)(-start)?\(", line):
      for shape in re.findall(r"f32\[([\d,]*)\]", found[1]):
        size = math.prod(int(n) for n in shape.split(",") if n)
        moved["while/body" in line].append(size)
  # A block of 3 sends its top scores, sums and gradients by the states; the
  # gradients by the table are added once, after all blocks.
  assert 0 < max(moved[True]) <= 3 * width
  assert max(moved[False]) <= rows // 2 * width
  # [N, rows] would be 1 MB; a block of scores is 3 x 2,048 on a device.
  assert compiled.memory_analysis().temp_size_in_bytes < number * rows * 4


def test_dro_survives_scores_whose_exponential_overflows():
  states = (STATES * 20).astype(np.float32)
  value = [
    _jit(losses.dro, 1.0, _mesh())(
      HEAD, states, TARGETS, weight, losses.propensity(COUNTS)
    )
    for weight in np.eye(NUMBER, dtype=np.float32)
  ]
  assert np.isfinite(value).all()
  assert max(value) > 88  # exp(88) is float32's largest power.


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
