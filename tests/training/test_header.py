"""A header computed once equals the header computed in every example."""

import functools
import math

import jax
import numpy as np
import pytest

from bigrec_jax.data.text import encoding, packing, shared_header
from bigrec_jax.devices import sharding
from bigrec_jax.models import stacking
from bigrec_jax.training import optimizer, step
from tests.training import tiny

LENGTH, HEADER = 64, 20


class Encoded(list):
  """Stands for encoding.EncodedExamples."""

  def get(self, numbers):
    return [self[n] for n in numbers]


def _examples(on_inputs, count=19, seed=0):
  rng = np.random.default_rng(seed)
  header = rng.integers(1, tiny.V, HEADER)
  found = Encoded()
  for n in range(count):
    own = rng.integers(1, tiny.V, rng.integers(3, 25))
    own[0] = n + 1  # So that no more than the header is common.
    first_label = 1 if on_inputs else HEADER + 2
    tokens = np.concatenate([header, own]).astype(np.int32)
    found.append(encoding.Encoded(tokens, first_label, False))
  return found


def _batches(examples, packed, header=None):
  shared, position = {}, 0
  if header is not None:
    examples = [header.own_part(example) for example in examples]
    shared, position = (
      dict(zip(packing.ROWLESS, header, strict=True)),
      header.length,
    )
  if packed:
    found = packing.packed(examples, 8, LENGTH, 0, position)
  else:
    found = packing.bucketed(examples, 8, LENGTH, (32,), 0, position)
  return [batch | shared for batch in found]


def _adapter(adapter):
  rng = np.random.default_rng(1)
  return jax.tree.map(  # B is zero at first, and A has no gradient then.
    lambda x: jax.device_put(
      rng.normal(0, 0.2, x.shape).astype(x.dtype), x.sharding
    ),
    adapter,
  )


def _steps(mesh, model, adapter, seed=None):
  return step.make_steps(
    model,
    optimizer.AdamW(0.0, 1.0),
    mesh,
    adapter,
    loss_chunk=7,
    dropout_seed=seed,
  )


def _loss_and_gradients(batches, mesh_sizes=(1, 1, 1), **model_changes):
  mesh, model, base, adapter = tiny.build(mesh_sizes)
  adapter = _adapter(adapter)
  steps = _steps(mesh, model.clone(**model_changes), adapter)
  state, sums = steps.init(adapter)
  sums = steps.add_up(sums, state, base, batches)
  shapes = {(b["tokens"].shape, "header" in b) for b in batches}
  assert steps.accumulate._cache_size() == len(shapes)
  assert int(sums.micro) == len(batches)
  return float(sums.loss), int(sums.tokens), tiny.numpy_tree(sums.grads)


def _assert_equal(ours, expected):
  assert ours[1] == expected[1] > 0
  assert ours[0] == pytest.approx(expected[0], rel=1e-5)
  largest = max(np.abs(x).max() for x in jax.tree.leaves(expected[2]))
  assert largest > 1
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-4, atol=1e-5 * largest
    ),
    ours[2],
    expected[2],
  )


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("on_inputs", [True, False])
def test_loss_and_gradients_equal_those_of_whole_examples(packed, on_inputs):
  examples = _examples(on_inputs)
  header = shared_header.find(examples)
  assert header.length == HEADER - 1
  shared = _batches(examples, packed, header)
  whole = _batches(examples, packed)
  assert len(shared) <= len(whole)
  assert sum(x["tokens"].size for x in shared) < sum(
    x["tokens"].size for x in whole
  )
  counts = [packing.count_tokens(batch) for batch in shared]
  assert sum(own + other for own, other in counts) == sum(
    len(example.tokens) for example in examples
  )
  _assert_equal(_loss_and_gradients(shared), _loss_and_gradients(whole))


@functools.cache
def _shared_on_one_device():
  examples = _examples(True)
  shared = _batches(examples, True, shared_header.find(examples))
  return shared, _loss_and_gradients(shared)


def test_scanned_and_recomputed_layers_agree(monkeypatch):
  shared, expected = _shared_on_one_device()
  monkeypatch.setattr(stacking, "_MOST_UNROLLED_LAYERS", 0)
  _assert_equal(_loss_and_gradients(shared, remat="dots"), expected)


def test_meshes_agree():
  shared, expected = _shared_on_one_device()
  _assert_equal(_loss_and_gradients(shared, (2, 2, 2)), expected)


def test_evaluation_counts_the_header_for_every_example():
  examples = _examples(True)
  mesh, model, base, adapter = tiny.build()
  adapter = _adapter(adapter)
  evaluate = _steps(mesh, model, adapter).evaluate

  def loss(batches):
    placed = [step.put_batch(mesh, batch) for batch in batches]
    parts = [evaluate(adapter, base, batch) for batch in placed]
    return sum(float(x) for x, _ in parts), sum(int(n) for _, n in parts)

  shared = loss(_batches(examples, True, shared_header.find(examples)))
  whole = loss(_batches(examples, True))
  assert shared[1] == whole[1] > 0
  assert shared[0] == pytest.approx(whole[0], rel=1e-5)


def test_examples_with_another_beginning_share_a_step():
  examples = _examples(True)
  header = shared_header.find(examples)
  first, last = examples[:11], examples[11:]
  mixed = _batches(last, True) + _batches(first, True, header)
  _assert_equal(
    _loss_and_gradients(mixed), _loss_and_gradients(_batches(examples, True))
  )


@pytest.mark.parametrize("scanned", [True, False])
def test_dropout_of_header_and_rows(monkeypatch, scanned):
  if scanned:
    monkeypatch.setattr(stacking, "_MOST_UNROLLED_LAYERS", 0)
  examples = _examples(True)
  batches = _batches(examples, True, shared_header.find(examples))
  mesh, model, base, adapter = tiny.build(dropout=0.5)
  adapter = _adapter(adapter)

  def loss(seed):
    steps = _steps(mesh, model, adapter, seed)
    state, sums = steps.init(adapter)
    return float(steps.add_up(sums, state, base, batches).loss)

  one, again, other = loss(1), loss(1), loss(2)
  assert one == again != other
  assert math.isfinite(one)


def test_the_header_is_drawn_again_in_every_step():
  examples = _examples(True)
  header = shared_header.find(examples)
  mesh, model, base, adapter = tiny.build(dropout=0.5)
  steps = _steps(mesh, model, _adapter(adapter), 3)
  state, _ = steps.init(_adapter(adapter))
  tokens = sharding.put_replicated(mesh, header.tokens)

  def keys(number):
    now = state.replace(step=sharding.put_replicated(mesh, np.int32(number)))
    prefix = steps.open_header(now, base, tokens).prefix
    return np.concatenate([x.ravel() for x in jax.tree.leaves(prefix)])

  np.testing.assert_array_equal(keys(0), keys(0))
  assert np.abs(keys(0) - keys(1)).max() > 1e-3
