import collections
import hashlib
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from bigrec_jax import config as config_lib, errors
from bigrec_jax.data.formats import synthetic, synthetic_titles, weighted_lists
from bigrec_jax.devices import sharding
from bigrec_jax.rankers import dense, engine

SMALL = config_lib.SyntheticConfig(num_users=300, num_items=211, seed=5)
ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def world() -> synthetic.World:
  return synthetic.build(SMALL)


@pytest.fixture(scope="module")
def windows(world):
  """All (history, target, user, timestamp) after a user's first purchase."""
  user, item, timestamp = world.interactions
  histories, targets, users, times = [], [], [], []
  for number in range(SMALL.num_users):
    bought = item[user == number]
    when = timestamp[user == number]
    for place in range(1, len(bought)):
      history = np.full(10, -1)
      recent = bought[max(0, place - 10) : place]
      history[: len(recent)] = recent
      histories.append(history)
      targets.append(bought[place])
      users.append(number)
      times.append(when[place])
  return tuple(map(np.array, (histories, targets, users, times)))


def _digest(world: synthetic.World) -> str:
  digest = hashlib.sha256()
  digest.update("\n".join(world.titles + world.external_ids).encode())
  for column in (*world.interactions, world.tastes):
    digest.update(str(column.dtype).encode() + column.tobytes())
  return digest.hexdigest()


def test_same_seed_gives_same_bytes_in_another_process(world):
  code = (
    "from tests.data.formats.test_synthetic import _digest, SMALL, synthetic\n"
    "print(_digest(synthetic.build(SMALL)))"
  )
  other = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    check=True,
    capture_output=True,
    text=True,
    env={"PYTHONHASHSEED": "3", "PATH": "/usr/bin:/bin"},
  ).stdout.strip()
  assert other == _digest(world)
  another = config_lib.SyntheticConfig(num_users=300, num_items=211, seed=6)
  assert _digest(synthetic.build(another)) != other


def test_catalogue_has_the_size_and_the_duplicates(world):
  assert len(world.titles) == len(world.external_ids) == 211
  assert len(set(world.external_ids)) == 211
  assert all(len(i) == 10 and i.startswith("B0") for i in world.external_ids)
  counts = collections.Counter(world.titles)
  assert set(counts.values()) == {1, 2}
  assert sum(n == 2 for n in counts.values()) == round(0.03 * 211)
  for row, group in enumerate(world.shelf.group):
    assert group == world.titles.index(world.titles[row])


def test_titles_are_short_regular_and_free_of_quotes(world):
  for title in world.titles:
    name, _, platform = title.rpartition(" - ")
    assert platform in synthetic_titles.PLATFORMS
    assert 2 <= len(name.split()) <= 8
    assert title == title.strip() and '"' not in title and "\n" not in title


def test_larger_world_never_runs_out_of_names():
  shelf = synthetic_titles.build_shelf(30_011, seed=1)
  counts = collections.Counter(shelf.titles)
  assert max(counts.values()) == 2
  assert sum(n == 2 for n in counts.values()) == round(0.03 * 30_011)
  assert len(set(shelf.external_ids)) == 30_011


def test_interactions_are_sorted_and_time_grows_for_each_user(world):
  user, item, timestamp = world.interactions
  assert (user.dtype, item.dtype, timestamp.dtype) == (
    np.int64,
    np.int32,
    np.int64,
  )
  same_user = np.diff(user) == 0
  assert np.all(np.diff(user) >= 0)
  assert np.all(np.diff(timestamp)[same_user] >= 60)
  lengths = np.bincount(user, minlength=300)
  assert lengths.min() == 6 and lengths.max() <= 20
  assert item.min() >= 0 and item.max() < 211
  # A few years of purchases, not a heap of them on one day.
  assert 2 < (timestamp.max() - timestamp.min()) / 86_400 / 365 < 5


def test_nobody_buys_a_title_of_the_last_ten_again(world, windows):
  histories, targets, _, _ = windows
  group = world.shelf.group
  owned = np.where(histories >= 0, group[histories], -1)
  assert not (owned == group[targets][:, None]).any()


def test_probabilities_are_a_distribution_over_what_is_not_owned(
  world, windows
):
  histories, _, users, _ = windows
  p = world.next_item_probabilities(histories[:97], users[:97])
  assert p.dtype == np.float32 and p.shape == (97, 211)
  np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-5)
  group = world.shelf.group
  for row, history in zip(p, histories, strict=False):
    owned = np.isin(group, group[history[history >= 0]])
    assert np.all(row[owned] == 0.0) and np.all(row[~owned] > 0.0)


def test_probabilities_by_hand_for_one_history(world):
  """The mixture written out in loops from the description."""
  shelf, user = world.shelf, 11
  # Two games of which only the first has a sequel, on lists made by hand.
  parts = collections.defaultdict(int)
  for franchise, part in zip(shelf.franchise, shelf.part, strict=True):
    parts[franchise] = max(parts[franchise], part)
  final = np.array([parts[f] for f in shelf.franchise]) == shelf.part
  last = int(np.flatnonzero(final & (shelf.part > 0))[0])
  previous = int(np.flatnonzero(~final)[0])
  expected = np.zeros(211)
  for habit, weight in synthetic.HABITS.items():
    values = np.zeros(211)
    for j in range(211):
      entry = shelf.appeal[j] * (1.0 if shelf.part[j] == 0 else 0.15)
      here = shelf.platform[j] == shelf.platform[last]
      if habit == "resume" and shelf.franchise[j] == shelf.franchise[previous]:
        step = shelf.part[j] - shelf.part[previous]
        near = shelf.platform[j] == shelf.platform[previous]
        values[j] = shelf.appeal[j] * {1: 1.0, 2: 0.05}.get(step, 0.0)
        values[j] *= 1.0 if near else 0.05
      elif habit == "franchise":
        other = shelf.group[j] != shelf.group[last]
        if other and shelf.franchise[j] == shelf.franchise[last]:
          values[j] = shelf.appeal[j] * (1.0 if here else 0.1)
      elif habit == "community":
        if shelf.community[j] == shelf.community[last]:
          values[j] = entry * (1.0 if here else 0.05)
      elif habit == "popular":
        values[j] = entry
      elif habit == "random":
        values[j] = 1.0
    if habit == "taste":
      for g in range(8):
        for p in range(5):
          box = (shelf.genre == g) & (shelf.platform == p)
          entry = shelf.appeal * np.where(shelf.part == 0, 1.0, 0.15) * box
          if box.any():
            values += world.tastes[user, g * 5 + p] * entry / entry.sum()
    if values.sum() > 0:  # The last game ends its series: no "sequel".
      expected += weight * values / values.sum()
  expected[np.isin(shelf.group, shelf.group[[last, previous]])] = 0.0
  expected /= expected.sum()
  history = np.array([[previous, last, -1, -1]])
  got = world.next_item_probabilities(history, np.array([user]))[0]
  np.testing.assert_allclose(got, expected, atol=1e-6)


def _chi_square_per_degree(counts: np.ndarray, p: np.ndarray) -> float:
  """Returns the statistic over cells of at least five expected counts."""
  expected = counts.sum() * p.astype(np.float64)
  big = expected >= 5
  excess = (counts[big] - expected[big]) ** 2 / expected[big]
  return float(excess.sum() / (big.sum() - 1))


@pytest.mark.parametrize("length", [0, 1, 2, 10])
def test_draws_follow_the_probabilities(world, windows, length):
  histories, _, users, _ = windows
  full = np.flatnonzero((histories >= 0).sum(axis=1) == 10)[7]
  history, user = histories[full][:length], users[full]
  draws = 40_000
  recent = np.full((draws, synthetic.MEMORY), -1)
  if length:
    recent[:, -length:] = history
  drawn = synthetic._draw_next(
    world, recent, np.full(draws, user), np.random.default_rng(1)
  )
  p = world.next_item_probabilities(history[None], np.array([user]))[0]
  assert np.all(p[np.unique(drawn)] > 0)
  # About 100 cells: the statistic's standard deviation is near 0.14.
  assert _chi_square_per_degree(np.bincount(drawn, minlength=211), p) < 1.6


def test_generated_transitions_match_the_probabilities(world, windows):
  """Over all purchases, targets fall on rank r as often as promised."""
  histories, targets, users, _ = windows
  p = world.next_item_probabilities(histories, users).astype(np.float64)
  own = np.take_along_axis(p, targets[:, None], axis=1)[:, 0]
  ordered = np.sort(p, axis=1)[:, ::-1]
  rank = (p > own[:, None]).sum(axis=1)
  for low, high in ((0, 1), (1, 3), (3, 10), (10, 40), (40, 211)):
    mass = ordered[:, low:high].sum(axis=1)
    z = ((rank >= low) & (rank < high)).sum() - mass.sum()
    assert abs(z) < 4 * np.sqrt((mass * (1 - mass)).sum())
  # The mean log-likelihood is minus the mean entropy.
  entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1)
  noise = np.std(np.log(own) + entropy) / np.sqrt(len(own))
  assert abs(np.mean(np.log(own) + entropy)) < 4 * noise


def test_history_beyond_the_memory_does_not_matter(world, windows):
  histories, _, users, _ = windows
  (full,) = np.nonzero((histories >= 0).all(axis=1))
  longer = np.column_stack([np.full(5, 3), histories[full[:5]], -np.ones(5)])
  np.testing.assert_array_equal(
    world.next_item_probabilities(longer.astype(int), users[full[:5]]),
    world.next_item_probabilities(histories[full[:5]], users[full[:5]]),
  )


def test_oracle_beats_every_heuristic(world, windows):
  histories, targets, users, times = windows
  order = np.argsort(times, kind="stable")
  train, test = np.split(order, [int(0.8 * len(order))])
  popularity = np.bincount(targets[train], minlength=211)
  last = histories[np.arange(len(histories)), (histories >= 0).sum(1) - 1]
  follow = np.zeros((211, 211))
  np.add.at(follow, (last[train], targets[train]), 1.0)

  def hits(scores: np.ndarray, k: int) -> float:
    target = np.take_along_axis(scores, targets[test][:, None], axis=1)
    return float(((scores > target).sum(axis=1) < k).mean())

  follow_scores = follow[last[test]] + 1e-6 * popularity
  popular = np.broadcast_to(popularity, follow_scores.shape)

  def ranks(users: np.ndarray | None) -> np.ndarray:
    law = world.next_item_probabilities(histories[test], users)
    ranks_of = engine.Ranks(
      targets[test],
      211,
      sharding.single_device_mesh(),
      most_users=1024,
      groups=world.shelf.group,
    )
    return ranks_of(dense.Dense(law.__getitem__, 211))

  knowing, blind = ranks(users[test]), ranks(None)
  for k in (1, 10):
    oracle = (knowing < k).mean()
    assert oracle > hits(popular, k) + 0.2
    assert oracle > hits(follow_scores, k)
    assert (blind < k).mean() > hits(follow_scores, k)
  assert (knowing < 1).mean() > 0.3 and (knowing < 10).mean() > 0.6


def test_lists_draw_what_they_hold():
  lists = weighted_lists.Lists.build(
    4,
    np.array([2, 0, 2, 0, 3]),
    np.array([7, 5, 6, 1, 9]),
    np.array([1.0, 3.0, 3.0, 1.0, 2.0]),
  )
  assert lists.filled().tolist() == [True, False, True, True]
  rows = np.array([0, 0, 2, 2, 3, 3])
  uniform = np.array([0.0, 0.26, 0.74, 0.76, 0.0, 1 - 2**-53])
  assert lists.draw(rows, uniform).tolist() == [1, 5, 6, 7, 9, 9]
  out = np.zeros((3, 10))
  lists.add_to(out, np.array([2, -1, 0]), np.array([0.5, 0.0, 1.0]))
  assert out[0, [6, 7]].tolist() == [0.375, 0.125]
  assert out[1].sum() == 0 and out[2, [1, 5]].tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
  ("users", "items", "key"), [(0, 200, "num_users"), (5, 39, "num_items")]
)
def test_impossible_sizes_are_user_errors(users, items, key):
  config = config_lib.SyntheticConfig(users, items, seed=0)
  with pytest.raises(errors.UserError, match=key):
    synthetic.build(config)


def test_smallest_world_builds():
  world = synthetic.build(config_lib.SyntheticConfig(1, 40, seed=0))
  assert len(world.titles) == 40 and len(world.interactions[0]) >= 6
