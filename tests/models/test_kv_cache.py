import jax.numpy as jnp
import numpy as np
import pytest

from bigrec_jax.models import kv_cache


def prompt(users=2):
  shape = (3, users, 2)
  lengths = jnp.arange(2, 2 + users, dtype=jnp.int32)
  return kv_cache.PromptCache(
    jnp.ones((*shape, 4, 5)), jnp.ones((*shape, 5, 4)), lengths
  )


def _writers(cache):
  """Which slot wrote each token of user 0's beams, [W, T]; -1 = none yet."""
  seen = np.asarray(cache.visible[0])  # [W, T, Q]
  assert np.all(seen.sum(-1) <= 1)
  return np.where(seen.any(-1), seen.argmax(-1), -1)


def test_reordering_moves_the_table_and_no_keys():
  cache = kv_cache.init_suffix(prompt(), num_beams=3, num_steps=2)
  assert cache.k.shape == (3, 2, 2, 4, 2, 3)  # [L, B, K, H, T, W]
  assert not cache.visible.any()
  v = jnp.arange(3 * 2 * 2 * 3 * 4, dtype=jnp.float32).reshape(3, 2, 2, 3, 4)
  k = jnp.swapaxes(-v, 3, 4)
  cache = cache.append(k, v)
  np.testing.assert_array_equal(cache.k[:, :, :, :, 0], k)
  np.testing.assert_array_equal(cache.v[:, :, :, 0], v)
  moved = cache.reorder(jnp.array([[2, 2, 0], [0, 1, 2]], jnp.int32))
  np.testing.assert_array_equal(moved.k, cache.k)
  assert _writers(moved)[:, 0].tolist() == [2, 2, 0]
  moved = moved.append(k, v)
  moved = moved.reorder(jnp.array([[1, 0, 0], [0, 1, 2]], jnp.int32))
  # Beam 0 continues slot 1 of step 1, which continued slot 2 of step 0.
  assert _writers(moved).tolist() == [[2, 1], [2, 0], [2, 0]]
  np.testing.assert_array_equal(
    moved.visible[0, 0], [[False, False, True], [False, True, False]]
  )


def test_prompt_mask_and_prefix():
  np.testing.assert_array_equal(
    prompt().valid, [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]
  )
  shared = prompt(1).as_prefix()
  assert shared.prefix_length == 5
  assert shared.k.shape[-1] == 0
  with pytest.raises(ValueError, match="one unpadded row"):
    prompt(2).as_prefix()
