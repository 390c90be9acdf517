import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigrec_jax.models import quantize

QUANTIZE = jax.jit(quantize.quantize, static_argnums=1)
DEQUANTIZE = jax.jit(quantize.dequantize, static_argnums=1)


def weight(shape=(2, 150, 7), seed=0):
  values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
  values[..., 3] = 0  # A channel of zeros.
  return jnp.asarray(values)


def test_int8_error_is_at_most_half_a_step():
  plain = weight()
  leaf = QUANTIZE(plain, "int8")
  assert leaf.values.dtype == jnp.int8
  assert leaf.shape == plain.shape
  step = np.abs(plain).max(axis=1, keepdims=True) / 127
  error = np.abs(DEQUANTIZE(leaf, jnp.float32) - plain)
  assert (error <= step / 2 + 1e-7).all()
  assert not error[..., 3].any()


def test_nf4_chooses_the_nearest_code_of_its_block():
  plain = np.asarray(weight())
  leaf = QUANTIZE(jnp.asarray(plain), "nf4")
  assert leaf.shape == plain.shape
  assert leaf.values.shape == (2, 96, 7)  # 150 padded to 192, two a byte.
  ours = np.asarray(DEQUANTIZE(leaf, jnp.float32))
  for first in range(0, 150, 64):
    block = plain[:, first : first + 64]
    peak = np.abs(block).max(axis=1, keepdims=True)
    levels = peak[..., None] * quantize.NF4_CODES
    nearest = np.abs(levels - block[..., None]).min(axis=-1)
    error = np.abs(ours[:, first : first + 64] - block)
    np.testing.assert_allclose(error, nearest, atol=1e-6)
    assert (error <= 0.153 * peak + 1e-7).all()


@pytest.mark.parametrize("kind", ["none", "int8", "nf4"])
def test_matmul_and_its_gradient_are_those_of_the_dequantised_weight(kind):
  leaf = jax.tree.map(lambda x: x[0], QUANTIZE(weight(), kind))
  plain = DEQUANTIZE(leaf, jnp.float32)
  x = jnp.asarray(
    np.random.default_rng(1).normal(size=(3, 5, 150)), jnp.float32
  )

  def loss(x, w):
    return jnp.sum(jnp.square(quantize.matmul(x, w)))

  np.testing.assert_allclose(
    quantize.matmul(x, leaf), jnp.matmul(x, plain), atol=1e-4
  )
  np.testing.assert_allclose(
    jax.jit(jax.grad(loss))(x, leaf),
    jax.grad(loss)(x, plain),
    rtol=1e-4,
    atol=1e-3,
  )


def test_the_backward_pass_keeps_no_dequantised_matrix():
  leaf = jax.tree.map(lambda x: x[0], QUANTIZE(weight(), "nf4"))
  x = jnp.ones((3, 150), jnp.float32)
  _, pull = jax.vjp(lambda x: quantize.matmul(x, leaf), x)
  kept = [np.size(leaf) for leaf in jax.tree.leaves(pull)]
  assert sum(kept) < 150 * 7
