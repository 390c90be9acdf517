import jax
import numpy as np
import pytest

from bigrec_jax.devices import noise

BITS = jax.jit(noise.bits, static_argnums=1)


@pytest.mark.parametrize("seed", [0, 1, 2**31])
def test_bits_are_fair_and_do_not_correlate(seed):
  count = 1 << 16
  one = np.asarray(BITS(np.uint32(seed), (count,)))
  two = np.asarray(BITS(np.uint32(seed + 1), (count,)))
  assert len(np.unique(one)) > 0.999 * count
  limit = 5 / np.sqrt(count)  # Five standard deviations.
  for bit in range(32):
    a = (one >> bit & 1) * 2.0 - 1
    b = (two >> bit & 1) * 2.0 - 1
    # Fair; no relation to the neighbour, the next seed, the position's bits.
    for series in (a, a[1:] * a[:-1], a * b):
      assert abs(series.mean()) < limit
    for place in range(16):
      position = (np.arange(count) >> place & 1) * 2.0 - 1
      assert abs((a * position).mean()) < limit


def test_draws_of_seeds_do_not_collide_or_shift():
  rows = np.asarray(
    jax.jit(jax.vmap(lambda s: noise.bits(noise.fold(s, 7), (257,))))(
      np.arange(500, dtype=np.uint32)
    )
  )
  assert len(np.unique(rows[:, 0])) == 500
  # As sets too: one sequence in another order would be a collision.
  shared = len(rows.reshape(-1)) - len(np.unique(rows))
  assert shared < 10  # Expected (128,500)^2 / 2^33 = 1.9.


def test_a_place_has_its_draw_in_any_shape():
  flat = np.asarray(BITS(np.uint32(5), (60,)))
  box = np.asarray(BITS(np.uint32(5), (3, 4, 5)))
  np.testing.assert_array_equal(flat.reshape(3, 4, 5), box)


def test_integers_and_uniforms_have_their_distribution():
  count, below = 1 << 16, 13
  drawn = np.asarray(
    jax.jit(noise.integers, static_argnums=(1, 2))(
      np.uint32(3), (count,), below
    )
  )
  found = np.bincount(drawn, minlength=below)
  expected = count / below
  assert ((found - expected) ** 2 / expected).sum() < 40  # 12 degrees, 7e-5.
  values = np.asarray(
    jax.jit(noise.uniform, static_argnums=1)(np.uint32(4), (count,))
  )
  assert 0 <= values.min() and values.max() < 1
  assert abs(values.mean() - 0.5) < 5 * np.sqrt(1 / 12 / count)
  assert abs(values.var() - 1 / 12) < 1e-3
