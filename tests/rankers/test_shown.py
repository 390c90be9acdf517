"""What may be listed: every maker of lists against its own whole list.

A list of what is allowed is the whole list with the others left out, the first
allowed row of a title in its title's place.
"""

import numpy as np
import pytest

from bigrec_jax import config as config_lib
from bigrec_jax.devices import sharding
from bigrec_jax.rankers import (
  all_beams,
  all_beams_lists,
  grounder,
  reranked_lists,
  shown,
)
from configs import common

USERS, ITEMS, WIDTH = 5, 90, 4
RNG = np.random.default_rng(4)
GROUPS = np.arange(ITEMS, dtype=np.int32)
GROUPS[[30, 60]] = 7  # Three rows of one title.
VECTORS = RNG.normal(size=(ITEMS, WIDTH)).astype(np.float32)[GROUPS]
QUERIES = RNG.normal(size=(USERS, 2, WIDTH)).astype(np.float32)
HIDDEN = RNG.integers(0, ITEMS, (USERS, 3)).astype(np.int32)
COUNTS = RNG.integers(0, 30, ITEMS)[GROUPS]
GROUND = config_lib.from_config_dict(common.get_config()).ground


def _mesh():
  return sharding.make_mesh(config_lib.MeshConfig(8, 1, 1))


def _grounder(hidden, k, allowed):
  ground = grounder.Grounder(
    VECTORS, GROUPS, COUNTS, 1.5, GROUND, _mesh(), most_users=3
  )
  return ground(QUERIES[:, 0], hidden, None, k, allowed)


def _plain(hidden, k, allowed):
  ground = grounder.Grounder(
    VECTORS, GROUPS, None, 0.0, GROUND, _mesh(), most_users=3
  )
  return ground(QUERIES[:, 0], hidden, None, k, allowed)


def _reranked(hidden, k, allowed):
  titles = np.array([[7, 3, 12, -1]] * USERS, np.int32)
  scores = np.array([[-1.0, -2.0, -3.0, 0.0]] * USERS)
  lists = reranked_lists.RerankedLists(VECTORS, GROUPS, GROUND, _mesh())
  return lists(titles, scores, QUERIES[:, 0], hidden, k, allowed)


def _all_beams(hidden, k, allowed):
  lists = all_beams_lists.AllBeamsLists(
    all_beams.Settings(1.0, 0.1, 0.2), VECTORS, GROUPS, _mesh()
  )
  logs = np.log([[0.7, 0.3]] * USERS)
  titles = np.full((USERS, 2), -1, np.int32)
  return lists(QUERIES, logs, titles, hidden, k, allowed)


@pytest.mark.parametrize(
  "make", [_grounder, _plain, _reranked, _all_beams], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("count", [2, 12, 70])
def test_a_filtered_list_is_the_whole_one_without_the_others(make, count):
  allowed = np.zeros(ITEMS, bool)
  allowed[RNG.permutation(ITEMS)[:count]] = True
  allowed[7], allowed[60] = False, True  # Another row has its title.
  k = 9
  whole = make(HIDDEN, ITEMS, None)
  found = make(HIDDEN, k, allowed)
  standing = shown.first_rows(GROUPS, allowed)
  assert found.items.shape == (USERS, k)
  for user in range(USERS):
    rows = standing[GROUPS[whole.items[user][whole.items[user] >= 0]]]
    expected = rows[rows >= 0][:k]
    own = found.items[user]
    np.testing.assert_array_equal(own[own >= 0], expected)
    places = [
      list(GROUPS[whole.items[user]]).index(GROUPS[item]) for item in expected
    ]
    for part, of_all in zip(found[1:3], whole[1:3], strict=True):
      np.testing.assert_allclose(
        part[user, : len(expected)], of_all[user, places], rtol=1e-5, atol=1e-6
      )


def test_a_row_that_is_not_allowed_hides_no_other_of_its_title():
  items = np.array([7, 30, 5, 60, -1], np.int32)
  allowed = np.ones(ITEMS, bool)
  allowed[7] = False
  nothing = np.array([-1], np.int32)
  of = shown.of_candidates
  assert of(items, GROUPS, nothing, allowed).tolist() == [0, 1, 1, 0, 0]
  assert of(items, GROUPS, nothing, None).tolist() == [1, 0, 1, 0, 0]
  hidden = np.array([60, -1], np.int32)
  assert of(items, GROUPS, hidden, allowed).tolist() == [0, 0, 1, 0, 0]
  assert shown.first_rows(GROUPS, allowed)[[7, 5]].tolist() == [30, 5]
