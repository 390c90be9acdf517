"""The adapter's product against autodiff of the plain formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigrec_jax.config import LoraConfig
from bigrec_jax.devices import noise
from bigrec_jax.models import low_rank, modules

_SCALE = 1.5


def _plain(x, a, b, rate, seed):
  if seed is not None:
    x = jnp.where(noise.keep(seed, x.shape, rate), x / (1.0 - rate), 0.0)
  return (x @ a) @ b * jnp.float32(_SCALE)


@pytest.mark.parametrize("lead", [(7,), (2, 5)])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_values_and_gradients_equal_autodiff(lead, rate):
  rng = np.random.default_rng(0)
  x, a, b, cotangent = (
    jnp.asarray(rng.standard_normal(shape), jnp.float32)
    for shape in ((*lead, 6), (6, 3), (3, 4), (*lead, 4))
  )
  seed = jnp.uint32(11) if rate else None

  def ours(x, a, b):
    return low_rank.update(x, a, b, _SCALE, rate, seed)

  found, backward = jax.vjp(ours, x, a, b)
  expected, plain = jax.vjp(
    lambda x, a, b: _plain(x, a, b, rate, seed), x, a, b
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  for ours_, theirs in zip(backward(cotangent), plain(cotangent), strict=True):
    np.testing.assert_allclose(ours_, theirs, rtol=1e-5, atol=1e-5)


def test_no_large_array_is_turned():
  """The compiled gradient copies no [T, F] into [F, T]; autodiff's does."""
  rows, width, features, rank = 256, 64, 192, 4
  shapes = [(1, rows, width), (width, rank), (rank, features)]
  given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

  def compiled(product):
    def loss(x, a, b):
      return jnp.sum(jnp.sin(product(x, a, b)))

    gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
    return gradient.lower(*given).compile().as_text()

  seed = jnp.uint32(1)
  turned = f"f32[{features},{rows}]"
  assert turned in compiled(lambda x, a, b: _plain(x, a, b, 0.1, seed))
  assert turned not in compiled(
    lambda x, a, b: low_rank.update(x, a, b, _SCALE, 0.1, seed)
  )


def test_adapters_of_a_layer_draw_masks_of_their_own_at_the_right_rate():
  """Of ones through identities: what comes out is the mask, scaled."""
  width, rate = 128, 0.05
  names = ("q_proj", "k_proj", "v_proj")
  lora = LoraConfig(width, float(width), rate, names)
  eye = jnp.eye(width)
  ones = jnp.ones((256, width))

  def dropped(name, layer):
    linear = modules.Linear(width, False, jnp.float32, lora, name=name)
    variables = {
      "params": {"kernel": jnp.zeros((width, width))},
      "lora": {"lora_a": eye, "lora_b": eye},
    }
    y = linear.apply(variables, ones, noise.at(jnp.uint32(7), layer))
    kept = np.asarray(y) > 0
    np.testing.assert_allclose(np.asarray(y)[kept], 1 / (1 - rate), rtol=1e-6)
    return ~kept

  masks = [
    dropped(name, jnp.uint32(layer)) for name in names for layer in range(3)
  ]
  count = ones.size
  for mask in masks:
    assert abs(mask.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / count)
  both = rate * rate
  for one in range(len(masks)):
    for other in range(one):
      share = (masks[one] & masks[other]).mean()
      assert abs(share - both) < 5 * np.sqrt(both * (1 - both) / count)
