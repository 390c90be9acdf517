"""Candidates first, the rest by distance: against a sort of whole rows."""

import numpy as np
import pytest

from bigrec_jax import config as config_lib
from bigrec_jax.devices import sharding
from bigrec_jax.rankers import candidates, duplicates, reranked
from bigrec_jax.rankers.distance import streamed
from configs import common
from tests.rankers import published

USERS, ITEMS, WIDTH, MOST = 40, 31, 3, 6
RNG = np.random.default_rng(1)
TITLES = [f"t{i}" for i in RNG.permutation(np.arange(ITEMS) % 22)]
GROUPS = published.groups(TITLES)
# Few distinct vectors, so that equal distances are everywhere; those of one
# title are equal.
VECTORS = RNG.integers(0, 3, (ITEMS, WIDTH)).astype(np.float32)[GROUPS]
QUERIES = RNG.integers(0, 3, (USERS, WIDTH)).astype(np.float32)
TARGETS = RNG.integers(0, ITEMS, USERS).astype(np.int32)
DISTANCES = published.distances(QUERIES, VECTORS)


def _candidates():
  names = np.unique(GROUPS)
  found = np.stack([RNG.permutation(names)[:MOST] for _ in range(USERS)])
  found[::5, 4:] = -1
  found[7] = -1
  return found.astype(np.int32)


@pytest.mark.parametrize("rule", ["best", "last"])
def test_ranks_are_those_of_whole_rows_sorted(rule):
  found = _candidates()
  scores = RNG.integers(-3, 0, found.shape).astype(np.float32)  # With ties.
  targets = duplicates.targets_by(rule, TARGETS, GROUPS)
  plain = published.ranks(DISTANCES, TITLES, TARGETS, rule)
  ranker = reranked.Reranked(
    found, GROUPS, targets, rule, VECTORS, QUERIES, plain
  )
  # Before everything by distance, however near.
  whole = DISTANCES.copy()
  for user in range(USERS):
    for title, score in zip(found[user], scores[user], strict=True):
      if title >= 0:
        whole[user, GROUPS == title] = -1000.0 - score
  want = published.ranks(whole, TITLES, TARGETS, rule)
  np.testing.assert_array_equal(ranker.ranks(scores), want)
  hits = [GROUPS[t] in row for t, row in zip(TARGETS, found, strict=True)]
  assert 0 < ranker.found == np.mean(hits) < 1


def test_no_candidates_leave_the_published_ranks():
  plain = published.ranks(DISTANCES, TITLES, TARGETS, "best")
  none = np.full((USERS, MOST), -1, np.int32)
  ranker = reranked.Reranked(
    none, GROUPS, TARGETS, "best", VECTORS, QUERIES, plain
  )
  found = ranker.ranks(np.zeros(none.shape, np.float32))
  np.testing.assert_array_equal(found, plain)


def test_candidates_by_distance_keep_the_published_order():
  plain = published.ranks(DISTANCES, TITLES, TARGETS, "best")
  first = np.argsort(DISTANCES, axis=1, kind="stable")[:, :MOST]
  titles = candidates.union([GROUPS[first]], MOST)
  scores = np.where(titles >= 0, -np.take_along_axis(DISTANCES, titles, 1), 0)
  ranker = reranked.Reranked(
    titles, GROUPS, TARGETS, "best", VECTORS, QUERIES, plain
  )
  np.testing.assert_array_equal(ranker.ranks(scores), plain)


def test_nearest_titles_are_those_of_a_stable_sort():
  ground = config_lib.from_config_dict(common.get_config()).ground
  mesh = sharding.single_device_mesh()
  table = streamed.streamed(VECTORS, GROUPS, mesh)
  found = candidates.nearest_titles(table, QUERIES, MOST, ground)
  order = np.argsort(DISTANCES, axis=1, kind="stable")
  want = candidates.union([GROUPS[order]], MOST)
  np.testing.assert_array_equal(found, want)


def test_a_union_takes_each_title_once_earlier_lists_first():
  found = candidates.union(
    [
      np.array([[5, -1], [-1, -1]], np.int32),
      np.array([[3, 5, 2], [7, 7, -1]], np.int32),
      np.array([[9, 8], [6, 7]], np.int32),
    ],
    4,
  )
  assert found.tolist() == [[5, 3, 2, 9], [7, 6, -1, -1]]
