"""Ratings from raw files to prepared rows, and data without them."""

import dataclasses

import numpy as np
import pytest

from bigrec_jax.data.formats import synthetic, synthetic_ratings
from bigrec_jax.data.prepared import (
  examples,
  prepare,
  splits,
  tfds_builder,
  window_files,
)
from bigrec_jax.workdir import storage
from tests.data import raw, settings
from tests.data.prepared import test_splits


def test_ratings_of_a_file_are_those_of_the_rows(tmp_path):
  folder = raw.movielens(tmp_path / "raw")
  data, prompt = settings.sections("movie", format="movielens", raw_dir=folder)
  paths = settings.workdir(tmp_path / "run")
  prepare.prepare(data, prompt, paths)
  assert storage.read_json(paths.manifest)["ratings"] is True
  movies, users, known = [], {}, {}
  with open(folder / "movies.dat", encoding="utf-8") as file:
    movies = [line.split("::")[0] for line in file]
  with open(folder / "ratings.dat") as file:
    for line in file:
      user, movie, rating, time = line.strip().split("::")
      user = users.setdefault(user, len(users))
      key = user, movies.index(movie), int(time)
      known.setdefault(key, set()).add(float(rating))
  found = examples.load_examples(paths, "valid", -1, 0)
  assert len(found) > 20
  for n in range(len(found)):
    target = int(found.user[n]), int(found.target[n]), int(found.timestamp[n])
    assert float(found.rating[n]) in known[target]
    inside = found.history[n] >= 0
    assert np.isnan(found.history_rating[n][~inside]).all()
    anyhow = {
      (user, item): set().union(
        *(v for k, v in known.items() if k[:2] == (user, item))
      )
      for user, item, _ in known
      if user == target[0]
    }
    for item, rating in zip(
      found.history[n][inside], found.history_rating[n][inside], strict=True
    ):
      assert float(rating) in anyhow[target[0], int(item)]
  part = found.take(np.array([3, 1]))
  np.testing.assert_array_equal(part.rating, found.rating[[3, 1]])
  np.testing.assert_array_equal(
    part.history_rating, found.history_rating[[3, 1]]
  )


@pytest.mark.parametrize("rated", [True, False])
def test_windows_with_and_without_ratings_come_back(tmp_path, rated):
  log = test_splits.make_log(seed=3)
  if rated:
    stars = np.random.default_rng(0).integers(1, 6, len(log))
    stars = stars.astype(np.float32)
    stars[::7] = np.nan
    log = dataclasses.replace(log, rating=stars)
  windows = splits.chronological(splits.timeline(log), "tail", 7)
  folder = tfds_builder.write(tmp_path, windows, 7)
  found = window_files.read_columns(folder, "train", None)
  wanted = windows["train"].columns(slice(None))
  assert set(found) == set(wanted)
  assert ("rating" in found) == rated
  for name, column in wanted.items():
    np.testing.assert_array_equal(found[name], column)
    assert found[name].dtype == column.dtype


def test_ratings_do_not_change_what_names_the_rows():
  columns = np.arange(3)
  plain = examples.Examples(
    "train", columns, columns[:, None], columns, columns, columns
  )
  rated = dataclasses.replace(plain, rating=columns.astype(np.float32))
  assert plain.fingerprint == rated.fingerprint


def test_the_made_up_stars_follow_taste_and_leave_purchases_alone():
  data, _ = settings.sections("game")
  world = synthetic.build(data.synthetic)
  stars = synthetic_ratings.of_world(world, data.synthetic.seed)
  again = synthetic_ratings.of_world(world, data.synthetic.seed)
  np.testing.assert_array_equal(stars, again)
  assert set(np.unique(stars)) == {1.0, 2.0, 3.0, 4.0, 5.0}
  assert 0.5 < (stars > 3).mean() < 0.6
  user, item, _ = world.interactions
  taste = world.tastes[user, synthetic.taste_shelf(world.shelf)[item]]
  assert taste[stars == 5].mean() > 1.5 * taste[stars == 1].mean()
