"""evaluate against the published procedure in float64."""

import dataclasses

import jax
import numpy as np
import pytest

from bigrec_jax import config as config_lib, errors, progress
from bigrec_jax.rankers import evaluate
from bigrec_jax.rankers.distance import ranking, sweep
from configs import common
from tests.rankers import published

CUTOFFS = (1, 3, 5, 10, 20, 50)
INJECTIONS = ("popularity", "cf", "popularity+cf")


def _mesh(*sizes):
  return jax.make_mesh(
    sizes,
    ("data", "fsdp", "tensor"),
    axis_types=(jax.sharding.AxisType.Auto,) * 3,
    devices=jax.devices()[: np.prod(sizes)],
  )


def _config(**changes):
  ground = config_lib.from_config_dict(common.get_config()).ground
  changes = {"batch_size": 16, "bootstrap_samples": 50} | changes
  return dataclasses.replace(ground, **changes)


def _splits(world, names=("valid", "test")):
  return {
    name: evaluate.Split(
      world[name]["queries"], world[name]["targets"], world[name]["cf"], "cf"
    )
    for name in names
  }


def _run(world, mesh, splits=None, **changes):
  return evaluate.evaluate(
    _splits(world) if splits is None else splits,
    world["items"],
    published.groups(world["titles"]),
    world["popularity"],
    _config(duplicates=world["duplicates"], **changes),
    mesh,
    seed=0,
    progress=progress.NullProgress(),
  )


def _row(found, **names):
  rows = [
    row
    for row in found.results
    if all(getattr(row, key) == value for key, value in names.items())
  ]
  assert len(rows) == 1
  return rows[0].to_json()


def _assert_published(found, world, name, grid, quirks=False):
  gammas = published.GRIDS[grid]
  chosen, table, tested = published.table(world, name, CUTOFFS, gammas, quirks)
  row = _row(found, split="test", injection=name, protocol="bigrec")
  assert row["gamma"] == chosen
  for metric in table:
    for k, value in table[metric].items():
      assert row[metric][k] == pytest.approx(value, abs=1e-12)
      low, high = row["ci95"][metric][k]
      assert low <= value <= high
  kept = found.ranks["test"]
  assert sorted(tested) == kept[f"{name}:gammas"].tolist()
  for gamma, ranks in zip(
    kept[f"{name}:gammas"], kept[f"{name}:ranks"], strict=True
  ):
    np.testing.assert_array_equal(ranks, tested[gamma])


def _assert_single(found, world, name, grid):
  gammas = sorted(set(published.GRIDS[grid]))
  values = [
    published.ndcg(published.injected(world["valid"], name, g, world), 20)
    for g in gammas
  ]
  best = gammas[int(np.argmax(values))]
  ranks = published.injected(world["test"], name, best, world)
  row = _row(found, split="test", injection=name, protocol="single_gamma")
  assert row["gamma"] == best
  np.testing.assert_array_equal(found.ranks["test"][name], ranks)
  for k in CUTOFFS:
    assert row["ndcg"][str(k)] == pytest.approx(published.ndcg(ranks, k))
    assert row["hr"][str(k)] == pytest.approx(published.hr(ranks, k))


@pytest.mark.parametrize(
  ("duplicates", "grid", "injections"),
  [("best", "movie_ci", INJECTIONS), ("last", "game_ci", ("cf",))],
)
def test_equals_the_published_procedure(duplicates, grid, injections):
  world = published.world(seed=1, duplicates=duplicates)
  found = _run(
    world, _mesh(2, 2, 2), gamma_grid=grid, injections=("none", *injections)
  )
  for split in ("valid", "test"):
    want = published.ranks(
      published.distances(world[split]["queries"], world["items"]),
      world["titles"],
      world[split]["targets"],
      duplicates,
    )
    np.testing.assert_array_equal(found.ranks[split]["none"], want)
    for protocol in ("bigrec", "single_gamma"):
      row = _row(found, split=split, injection="none", protocol=protocol)
      assert row["gamma"] is None
      for k in CUTOFFS:
        assert row["ndcg"][str(k)] == pytest.approx(published.ndcg(want, k))
        assert row["hr"][str(k)] == pytest.approx(published.hr(want, k))
  for name in injections:
    _assert_published(found, world, name, grid)
    _assert_single(found, world, name, grid)
  for row in found.baselines:
    assert row.name in ("most_pop", "random", "cf")


def test_users_of_whom_cf_knows_nothing_get_the_lists_without_it(monkeypatch):
  """Their weights are 0; nobody else's rank changes."""
  world = published.world(seed=1)
  known = _run(world, _mesh(2, 2, 2), injections=INJECTIONS)
  world["valid"]["cf"][[3, 23]] = 0.5
  world["test"]["cf"][5] = 0.0
  plain = published.min_max

  def min_max(rows):
    with np.errstate(invalid="ignore"):
      return np.nan_to_num(plain(rows))

  monkeypatch.setattr(published, "min_max", min_max)
  found = _run(world, _mesh(2, 2, 2), injections=INJECTIONS)
  for name in INJECTIONS:
    _assert_published(found, world, name, "movie_ci")
    _assert_single(found, world, name, "movie_ci")
  assert found.ranks["test"]["cf"][5] == found.ranks["test"]["none"][5]
  own = known.ranks["test"]["cf:gammas"].tolist()
  for gamma, ranks in zip(
    found.ranks["test"]["cf:gammas"],
    found.ranks["test"]["cf:ranks"],
    strict=True,
  ):
    if gamma in own:
      before = known.ranks["test"]["cf:ranks"][own.index(gamma)]
      others = np.arange(len(ranks)) != 5
      np.testing.assert_array_equal(ranks[others], before[others])
  pair = found.gamma_pairs["popularity+cf"].ndcg["20"]
  of_valid = found.ranks["valid"]["popularity+cf:two_gammas"]
  assert published.ndcg(of_valid, 20) == pytest.approx(max(pair))


def test_popularity_script_tunes_hr_by_ndcg_on_request():
  world = published.world(seed=2)
  options = {"gamma_grid": "movie_ci", "injections": ("popularity",)}
  mesh = _mesh(2, 2, 2)
  quirky = _run(world, mesh, protocol_quirks=True, **options)
  _assert_published(quirky, world, "popularity", "movie_ci", quirks=True)
  right = _run(world, mesh, **options)
  _assert_published(right, world, "popularity", "movie_ci")
  names = {"split": "test", "injection": "popularity", "protocol": "bigrec"}
  gamma = _row(quirky, **names)["gamma"]
  assert gamma["hr"] == gamma["ndcg"] != _row(right, **names)["gamma"]["hr"]


def test_no_hit_at_any_gamma_is_gamma_minus_one():
  world = published.world(seed=3)
  split = world["valid"]
  # Every valid query is another title, exactly, far from its target.
  split["targets"][:] = 11
  split["queries"][:] = world["items"][np.arange(41) + 20]
  found = _run(
    world, _mesh(2, 2, 2), gamma_grid="movie_ci", injections=("popularity",)
  )
  row = _row(found, split="test", injection="popularity", protocol="bigrec")
  assert row["gamma"]["ndcg"]["1"] == -1.0
  _assert_published(found, world, "popularity", "movie_ci")


def test_every_mesh_and_block_size_gives_the_same_ranks():
  world = published.world(seed=4)
  options = {"gamma_grid": "0,0.3,2,50", "injections": ("none", "cf")}
  found = [
    _run(world, _mesh(8, 1, 1), batch_size=16, **options),
    # Fewer users a block than asked: 211 items and 512 x 3 distances.
    _run(world, _mesh(1, 1, 1), batch_size=512, block_items=3, **options),
  ]
  for other in found[1:]:
    assert other.results == found[0].results
    assert other.baselines == found[0].baselines
    assert other.gamma_curves == found[0].gamma_curves
    for split, arrays in found[0].ranks.items():
      for name, array in arrays.items():
        np.testing.assert_array_equal(array, other.ranks[split][name])


def test_the_nearest_item_stays_first_under_injection():
  world = published.world(seed=5)
  for split in ("valid", "test"):
    nearest = published.distances(
      world[split]["queries"], world["items"]
    ).argmin(axis=1)
    world[split]["targets"][::2] = nearest[::2]
  found = _run(world, _mesh(2, 2, 2), gamma_grid="movie_ci")
  ranks = found.ranks["test"]
  assert (ranks["none"][::2] == 0).all()
  for name in INJECTIONS:
    np.testing.assert_array_equal(
      ranks[f"{name}:ranks"] == 0,
      np.broadcast_to(ranks["none"] == 0, ranks[f"{name}:ranks"].shape),
    )
  tables = [row for row in found.results if row.split == "test"]
  assert len({row.hr["1"] for row in tables}) == 1
  assert len({row.ndcg["1"] for row in tables}) == 1


def test_crowds_in_doubt_are_still_ranked_exactly():
  # Integer vectors: thousands of distances tie, within and past the lists.
  rng = np.random.default_rng(6)
  world = published.world(seed=6, num_items=401, width=2)
  world["items"] = rng.integers(-3, 4, size=(401, 2)).astype(np.float32)
  # Equal vectors needn't have equal titles, nor the other way about.
  for split in ("valid", "test"):
    users = len(world[split]["targets"])
    world[split]["queries"] = rng.integers(-3, 4, size=(users, 2)).astype(
      np.float32
    )
  found = _run(
    world, _mesh(2, 2, 2), gamma_grid="movie_ci", injections=("none", "cf")
  )
  want = published.ranks(
    published.distances(world["test"]["queries"], world["items"]),
    world["titles"],
    world["test"]["targets"],
    "best",
  )
  np.testing.assert_array_equal(found.ranks["test"]["none"], want)
  _assert_published(found, world, "cf", "movie_ci")


def test_one_compilation_per_program():
  world = published.world(seed=7, num_items=107, width=11)
  programs = (ranking.plain_counts, sweep.injected_counts)
  before = [program._cache_size() for program in programs]
  _run(world, _mesh(4, 2, 1), batch_size=8, injections=("popularity",))
  after = [program._cache_size() for program in programs]
  assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1]


def test_without_cf_scores_only_popularity_is_injected():
  world = published.world(seed=8)
  splits = {
    name: dataclasses.replace(split, cf_scores=None)
    for name, split in _splits(world).items()
  }
  found = _run(world, _mesh(2, 2, 2), splits)
  assert {r.injection for r in found.results} == {"none", "popularity"}
  assert {r.name for r in found.baselines} == {"most_pop", "random"}


def _bad_query(world):
  world["test"]["queries"][5, 3] = np.nan


def _bad_item(world):
  world["items"][17, 3] = np.inf


def _bad_cf(world):
  world["valid"]["cf"][23, 9] = np.nan


def _flat_popularity(world):
  world["popularity"][:] = 3


def _negative_popularity(world):
  world["popularity"][4] = -2


def _flat_distances(world):
  world["items"][:] = world["items"][0]


def _short_cf(world):
  world["valid"]["cf"] = world["valid"]["cf"][:, :-1]


def _missing_target(world):
  world["test"]["targets"][6] = -1


@pytest.mark.parametrize(
  ("spoil", "message"),
  [
    (_bad_query, "test queries: row 5 is NaN"),
    (_bad_item, "item embeddings: row 17 .of 1. is NaN"),
    (_bad_cf, "cf: row 23 holds NaN"),
    (_flat_popularity, "popularity: all 211 items have 3"),
    (_negative_popularity, "popularity: item 4 has -2"),
    (_flat_distances, "valid queries: row 0 is at distance"),
    (_short_cf, r"cf: shape \[41, 210\] found, \[41, 211\]"),
    (_missing_target, "test: the target of row 6 is no row of the catalogue"),
  ],
)
def test_what_would_end_in_nan_is_refused(spoil, message):
  world = published.world(seed=9)
  spoil(world)
  with pytest.raises(errors.UserError, match=message):
    _run(world, _mesh(2, 2, 2))


def test_gamma_needs_valid():
  world = published.world(seed=10)
  splits = _splits(world, ("test",))
  with pytest.raises(errors.UserError, match="no valid predictions"):
    _run(world, _mesh(2, 2, 2), splits)
  found = _run(world, _mesh(2, 2, 2), splits, injections=("none",))
  assert {row.split for row in found.results} == {"test"}
