import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigrec_jax.cf import networks
from tests.cf import worlds

ALL = [
  (n, f) for n in ("sasrec", "gru4rec", "caser") for f in ("dros", "s3rec")
]
LENGTHS = np.array([1, 3, 7, 5, 2], np.int32)


def _histories(spec, seed=0):
  rng = np.random.default_rng(seed)
  tokens = rng.integers(0, spec.num_items, (len(LENGTHS), spec.max_length))
  order = np.arange(spec.max_length)
  tokens = np.where(order < LENGTHS[:, None], tokens, spec.num_items)
  return tokens.astype(np.int32)


LAST = jax.jit(networks.last_states, static_argnums=0)
ALL_STATES = jax.jit(networks.all_states, static_argnums=0)


@functools.cache
def _params(spec):
  """Random parameters; nothing is compiled for them."""
  params = networks.init(spec, 0)
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: rng.normal(scale=0.4, size=x.shape).astype(np.float32), params
  )


def _last(spec, params, tokens, lengths=LENGTHS):
  return np.asarray(LAST(spec, params, tokens, lengths, None))


def _left_padded(spec, tokens):
  return np.stack(
    [
      np.concatenate([row[n:], row[:n]])
      for row, n in zip(tokens, LENGTHS, strict=True)
    ]
  )


def _torch_states(spec, params, tokens):
  torch = pytest.importorskip("torch")
  from tests.cf import torch_networks

  items, width, length = spec.num_items, spec.hidden_size, spec.max_length
  s, n = torch.tensor(tokens).long(), torch.tensor(LENGTHS).long()
  with torch.no_grad():
    match (spec.network, spec.family):
      case ("sasrec", "dros"):
        net = torch_networks.DrosSasRec(items, width, length).load(params)
        return net(s, n).numpy()
      case ("gru4rec", "dros"):
        net = torch_networks.DrosGru(items, width).load(params)
        return net(s, n).numpy()
      case ("caser", "dros"):
        net = torch_networks.DrosCaser(items, width, length).load(params)
        return net(s).numpy()
      case ("sasrec", "s3rec"):
        net = torch_networks.S3RecSasRec(
          items, width, length, spec.num_layers, spec.num_heads
        ).load(params)
        s = torch.tensor(_left_padded(spec, tokens)).long()
        return net(s)[:, -1].numpy()
      case ("gru4rec", "s3rec"):
        net = torch_networks.DrosGru(items, width).load(params)
        out = params["network"]["out"]
        return net(s, n).numpy() @ out["kernel"] + out["bias"]
      case ("caser", "s3rec"):
        net = torch_networks.DrosCaser(items, width, length).load(params)
        out = params["network"]["out"]
        s = torch.tensor(_left_padded(spec, tokens)).long()
        return net(s).numpy() @ out["kernel"] + out["bias"]


@pytest.mark.parametrize(("network", "family"), ALL)
def test_shapes_are_known_without_drawing(network, family):
  spec = worlds.spec(network, family)
  shapes = networks.abstract(spec)
  real = _params(spec)
  assert jax.tree.structure(shapes) == jax.tree.structure(real)
  for one, other in zip(*map(jax.tree.leaves, (shapes, real)), strict=True):
    assert (one.shape, one.dtype) == (other.shape, other.dtype)


@pytest.mark.torch
@pytest.mark.parametrize(("network", "family"), ALL)
def test_the_last_state_equals_an_independent_torch_network(network, family):
  spec = worlds.spec(network, family)
  params, tokens = _params(spec), _histories(spec)
  expected = _torch_states(spec, params, tokens)
  np.testing.assert_allclose(
    _last(spec, params, tokens), expected, rtol=1e-4, atol=1e-4
  )


@pytest.mark.parametrize(
  ("network", "family"), [a for a in ALL if a[0] != "caser"]
)
def test_packed_sequences_do_not_see_each_other(network, family):
  spec = worlds.spec(network, family)
  params, tokens = _params(spec), _histories(spec)
  # Rows 1 and 0 (3 + 1 items) and row 4 (2 items) share one packed row.
  parts = [(1, 3), (0, 1), (4, 2)]
  packed = np.full((1, spec.max_length), spec.num_items, np.int32)
  segments = np.full((1, spec.max_length), -1, np.int32)
  positions = np.zeros((1, spec.max_length), np.int32)
  start, ends = 0, []
  for row, size in parts:
    packed[0, start : start + size] = tokens[row, :size]
    segments[0, start : start + size] = row
    first = 0 if family == "dros" else spec.max_length - size
    positions[0, start : start + size] = first + np.arange(size)
    start += size
    ends.append(start - 1)
  states = ALL_STATES(spec, params, packed, positions, segments, None)
  expected = _last(spec, params, tokens)
  for (row, _), end in zip(parts, ends, strict=True):
    np.testing.assert_allclose(
      np.asarray(states)[0, end], expected[row], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("network", "family"), ALL)
def test_an_empty_history_has_a_finite_state(network, family):
  spec = worlds.spec(network, family)
  tokens = np.full((5, spec.max_length), spec.num_items, np.int32)
  states = _last(spec, _params(spec), tokens, np.zeros(5, np.int32))
  assert np.isfinite(states).all()


def test_dropout_thins_in_training_only():
  spec = worlds.spec("sasrec", "dros", dropout=0.5)
  params, tokens = _params(spec), _histories(spec)
  calm = _last(spec, params, tokens)
  np.testing.assert_array_equal(calm, _last(spec, params, tokens))
  one, two = (LAST(spec, params, tokens, LENGTHS, np.uint32(k)) for k in (0, 1))
  assert np.abs(np.asarray(one) - np.asarray(two)).max() > 1e-3
  assert np.abs(np.asarray(one) - calm).max() > 1e-3


def test_dropout_keeps_the_mean_and_the_rate():
  from bigrec_jax.cf import layers

  x = jnp.ones((101, 103), jnp.float32)
  thin = jax.jit(lambda x, noise: layers.Dropout(0.3).apply({}, x, noise))
  y = thin(x, np.uint32(0))
  y = np.asarray(y)
  assert abs((y == 0).mean() - 0.3) < 0.02
  assert abs(y.mean() - 1.0) < 0.02
  np.testing.assert_allclose(y[y > 0], 1 / 0.7, rtol=1e-4)


def test_the_torch_layer_initialisers_have_their_spread():
  spec = worlds.spec("sasrec", "dros", hidden_size=62)
  params = networks.init(spec, 0)
  network = params["network"]
  assert abs(np.std(network["items"]) - 0.01) < 0.001
  assert abs(np.std(network["position"]) - 1.0) < 0.1
  bound = 1 / np.sqrt(62)
  for leaf in (params["head"], network["blocks_0"]["key"]["kernel"]):
    assert 0.95 * bound < np.abs(np.asarray(leaf)).max() <= 1.0001 * bound
