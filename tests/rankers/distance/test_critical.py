"""Codes of critical gammas against the inequality they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigrec_jax.rankers.combine import calibrate
from bigrec_jax.rankers.distance import critical

GRID = calibrate.parse_grid("movie_ci")[1:]


def _keys(a, b, gammas, shape, certain):
  grid = critical.grid(gammas, shape)
  return jax.jit(
    lambda a, b: critical.key(
      a, b, jax.tree.map(jnp.asarray, grid), shape, certain
    )
  )(a, b)


@pytest.mark.parametrize(
  ("certain", "count"), [(True, len(GRID)), (False, len(GRID)), (True, 5)]
)
def test_counts_equal_the_inequality_at_every_gamma(certain, count):
  rng = np.random.default_rng(0)
  shape = critical.grid_shape(GRID)
  gammas = np.sort(rng.choice(GRID, size=count, replace=False))
  a = (rng.standard_normal((3, 501)) * 5).astype(np.float32)
  b = (rng.standard_normal((3, 501)) * 0.5).astype(np.float32)
  b[:, :100] = 0.0
  a[:, 50:70] = 0.0
  b[:, 90:110] = a[:, 90:110] / np.float32(gammas[2])  # On the grid itself.
  keys = _keys(a, b, gammas, shape, certain)
  counts = np.asarray(critical.counts(keys, shape))[:, :count]
  single = gammas.astype(np.float32)[:, None, None]
  # The same single-precision division decides; equality is within any margin.
  with np.errstate(divide="ignore", invalid="ignore"):
    ratio = a / b
  flat = (a < 0) if certain else (a <= 0)
  # At c = gamma itself an item counts where b > 0 and not where b < 0, either
  # way within the margins that callers add.
  holds = np.where(
    b > 0, ratio <= single, np.where(b < 0, (a < 0) & (ratio > single), False)
  )
  before = np.where(b == 0, flat, holds)
  np.testing.assert_array_equal(counts, before.sum(axis=2).T)
  for column in (0, count // 2, count - 1):
    one = critical.before(keys, jnp.int32(column), shape)
    np.testing.assert_array_equal(one, before[column])


def test_both_ways_of_counting_agree():
  rng = np.random.default_rng(1)
  shape = critical.grid_shape(GRID)
  keys = rng.integers(0, 2 * (shape.gammas + 1), size=(5, 333)).astype(np.int32)
  by_comparison = np.stack(
    [
      np.asarray(critical.before(keys, np.int32(column), shape)).sum(axis=1)
      for column in range(shape.gammas)
    ],
    axis=1,
  )
  np.testing.assert_array_equal(
    critical.counts(jnp.asarray(keys), shape), by_comparison
  )
  np.testing.assert_array_equal(
    critical.counts_by_comparison(jnp.asarray(keys), shape), by_comparison
  )


@pytest.mark.parametrize(
  "text", ["movie_ci", "game_ci", "movie_pda", "1e-5,1e-4,7,7.0001,999"]
)
def test_a_bucket_is_what_a_search_finds(text):
  gammas = calibrate.parse_grid(text)
  gammas = gammas[gammas > 0]
  shape = critical.grid_shape(gammas)
  rng = np.random.default_rng(2)
  values = np.exp(rng.uniform(-20, 20, size=1001)).astype(np.float32)
  values = np.concatenate(
    [values, gammas.astype(np.float32), [0.0, -3.0, np.inf, -np.inf, 1e37]]
  ).astype(np.float32)
  # b = 1, so that the critical gamma is a.
  keys = _keys(values[None], np.ones_like(values)[None], gammas, shape, True)
  want = np.searchsorted(gammas.astype(np.float32), values)
  np.testing.assert_array_equal(keys[0], want)
  # As on accelerators.
  grid = jax.tree.map(jnp.asarray, critical.grid(gammas, shape))
  found = critical.bucket_by_comparison(jnp.asarray(values), grid)
  np.testing.assert_array_equal(found, want)
