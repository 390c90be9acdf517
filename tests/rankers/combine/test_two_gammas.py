"""Every pair of gammas against a float64 sort, and the pair that is chosen."""

import dataclasses

import jax
import numpy as np
import pytest

from bigrec_jax import config as config_lib, progress
from bigrec_jax.devices import sharding
from bigrec_jax.rankers import evaluate
from bigrec_jax.rankers.combine import calibrate, injection, two_gammas
from bigrec_jax.rankers.distance import (
  critical,
  distance,
  injected,
  resolution,
  user_block,
)
from configs import common
from tests.rankers import published

GRID = np.array([0.0, 0.03, 0.4, 1.0, 2.0, 17.0, 99.0])
# More than are tried for popularity.
MANY = "0,.1,.2,.3,.4,.5,.6,.7,.8,.9,1,2,3,5,9,20,40,99"
MESHES = [(1, 1, 1), (2, 2, 2)]


def _mesh(sizes):
  devices = jax.devices()[: np.prod(sizes)]
  return sharding.make_mesh(config_lib.MeshConfig(*sizes), devices)


def _crowded(seed):
  """Integer vectors, counts and scores: thousands of ties of every kind."""
  rng = np.random.default_rng(seed)
  world = published.world(seed=seed, num_items=107, width=2)
  world["items"] = rng.integers(-3, 4, size=(107, 2)).astype(np.float32)
  world["popularity"] = rng.integers(0, 4, size=107)
  for split in ("valid", "test"):
    users = len(world[split]["targets"])
    queries = rng.integers(-3, 4, size=(users, 2))
    world[split]["queries"] = queries.astype(np.float32)
    scores = rng.integers(0, 3, size=(users, 107))
    scores[:, :2] = [0, 2]
    world[split]["cf"] = scores.astype(np.float32)
  return world


def _sorted(split, world, first, second):
  """Ranks at one pair: the formula in float64 and a stable sort."""
  found = published.distances(split["queries"], world["items"])
  # Not divided by their span, which may round ties apart.
  above = found - found.min(axis=1, keepdims=True)
  popularity = published.weight("popularity", world["popularity"], None)
  cf = published.weight("cf", None, split["cf"])
  if first == second:
    shrinkage = (popularity * cf) ** -first
  else:
    shrinkage = popularity**-first * cf**-second
  return published.ranks(
    shrinkage * above, world["titles"], split["targets"], "best"
  )


def _opened(world, mesh, rows):
  split = world["test"]
  groups = published.groups(world["titles"])
  table = distance.item_table(world["items"], groups, mesh)
  members = user_block.members(groups)
  count = len(split["targets"])
  block = user_block.open_block(
    table, members, split["queries"], split["targets"], rows, 0, "test"
  )
  assert len(block) == count
  weights = injection.Injection(
    injection.Popularity(world["popularity"], table),
    injection.cf_block(split["cf"], 0, "cf", rows, table),
  )
  return block, weights


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("crowded", [False, True])
def test_ranks_at_every_pair_are_those_of_a_sort(mesh, crowded):
  world = _crowded(3) if crowded else published.world(seed=3, num_items=131)
  block, weights = _opened(world, _mesh(mesh), 40)
  positive = GRID[1:]
  shape = critical.grid_shape(positive)
  plain = resolution.plain_ranks(block)
  grids = positive[[1, 3, 5]], positive
  exact = injected.pair_ranks(block, weights, *grids, shape, plain, None)
  limited = injected.pair_ranks(block, weights, *grids, shape, plain, 5)
  for i, first in enumerate(grids[0]):
    for j, second in enumerate(grids[1]):
      want = _sorted(world["test"], world, first, second)
      np.testing.assert_array_equal(exact[:, i, j], want, f"{first} {second}")
      np.testing.assert_array_equal(
        np.minimum(limited[:, i, j], 5), np.minimum(want, 5)
      )


def test_pairs_with_zeros_and_equal_gammas_are_the_single_sweeps():
  world = published.world(seed=4, num_items=131)
  block, weights = _opened(world, _mesh((2, 2, 2)), 40)
  shape = critical.grid_shape(GRID[1:])
  pairs = two_gammas.Pairs(GRID, shape)
  plain = resolution.plain_ranks(block)
  single = {
    name: injected.injected_ranks(
      block, weights.only(name.split("+")), GRID, shape, plain, None
    )
    for name in ("popularity", "cf", "popularity+cf")
  }
  ranks = pairs.ranks(block, weights, plain, single, 1000)
  # All of the small grid are tried for popularity, so all pairs there are.
  assert len(pairs.pairs) == len(GRID) ** 2
  assert [tuple(p) for p in pairs.pairs] == [(f, g) for f in GRID for g in GRID]
  for place, (first, second) in enumerate(pairs.pairs):
    want = _sorted(world["test"], world, first, second)
    np.testing.assert_array_equal(ranks[:, place], want)
    one = injection.Gammas(first, second)
    np.testing.assert_array_equal(
      pairs.ranks_at(block, weights, one, plain)[:, 0], want
    )


def test_few_gammas_of_popularity_span_the_grid():
  grid = calibrate.parse_grid("movie_ci")
  found = two_gammas.firsts(grid)
  assert len(found) == 12 and set(found) <= set(grid)
  assert found[0] == 0.1 and found[-1] == 99.0
  steps = found[1:] / found[:-1]
  assert steps.min() > 1.5 and steps.max() < 2.2
  np.testing.assert_array_equal(two_gammas.firsts(GRID), GRID[1:])
  assert two_gammas.firsts(np.array([0.0])).size == 0


def _evaluate(world, mesh, **changes):
  ground = config_lib.from_config_dict(common.get_config()).ground
  changes = {"batch_size": 16, "bootstrap_samples": 20} | changes
  splits = {
    name: evaluate.Split(
      world[name]["queries"], world[name]["targets"], world[name]["cf"], "cf"
    )
    for name in ("valid", "test")
  }
  return evaluate.evaluate(
    splits,
    world["items"],
    published.groups(world["titles"]),
    world["popularity"],
    dataclasses.replace(ground, **changes),
    _mesh(mesh),
    seed=0,
    progress=progress.NullProgress(),
  )


@pytest.mark.parametrize(
  ("seed", "grid", "cutoffs"),
  [(11, MANY, (1, 20)), (12, "0.2,0.5,3", (1, 10, 30)), (13, "0", (5,))],
)
def test_the_pair_chosen_is_the_first_best_and_no_single_gamma_is_better(
  seed, grid, cutoffs
):
  world = published.world(seed=seed, num_items=131)
  # CF knows, popularity misleads: one gamma for both is worse than CF alone.
  rng = np.random.default_rng(seed)
  for split in ("valid", "test"):
    own = world[split]
    users = np.arange(len(own["targets"]))
    own["cf"] = rng.standard_normal(own["cf"].shape).astype(np.float32)
    own["cf"][users, own["targets"]] += 3.0
  found = _evaluate(world, (2, 2, 2), gamma_grid=grid, cutoffs=cutoffs)
  pairs = found.gamma_pairs["popularity+cf"]
  values = [
    published.ndcg(_sorted(world["valid"], world, f, g), 20)
    for f, g in zip(pairs.popularity, pairs.cf, strict=True)
  ]
  np.testing.assert_allclose(pairs.ndcg["20"], values, atol=1e-12)
  (row,) = [r for r in found.results if r.protocol == "two_gammas"]
  place = int(np.argmax(values))
  best = pairs.popularity[place], pairs.cf[place]
  assert (row.gamma["popularity"], row.gamma["cf"]) == best
  want = _sorted(world["test"], world, *best)
  np.testing.assert_array_equal(
    found.ranks["test"]["popularity+cf:two_gammas"], want
  )
  for k in cutoffs:
    assert row.ndcg[str(k)] == pytest.approx(published.ndcg(want, k))
    assert row.hr[str(k)] == pytest.approx(published.hr(want, k))
  # By the cutoff that all are compared by: 20, or the largest reported.
  k = "20" if 20 in cutoffs else str(max(cutoffs))
  top = max(pairs.ndcg["20"])
  for name, curve in found.gamma_curves.items():
    if k == "20":
      assert max(curve.ndcg[k]) <= top, name
    assert len(pairs.ndcg[k]) == len(values)
  assert {r.injection for r in found.results if r.protocol == "two_gammas"} == {
    "popularity+cf"
  }


def test_parts_that_are_not_reported_are_swept_all_the_same():
  world = published.world(seed=14, num_items=131)
  whole = _evaluate(world, (8, 1, 1), gamma_grid="0,1,9")
  # Of another mesh and other blocks.
  alone = _evaluate(
    world,
    (1, 1, 1),
    gamma_grid="0,1,9",
    injections=("popularity+cf",),
    protocols=("two_gammas",),
    batch_size=7,
  )
  assert alone.gamma_pairs == whole.gamma_pairs
  (row,) = alone.results
  assert row in whole.results
  # The published rows don't know of it.
  without = _evaluate(
    world, (8, 1, 1), gamma_grid="0,1,9", protocols=("bigrec", "single_gamma")
  )
  assert without.gamma_pairs == {}
  assert without.results == [r for r in whole.results if r != row]
  assert without.gamma_curves == whole.gamma_curves
  assert without.baselines == whole.baselines
