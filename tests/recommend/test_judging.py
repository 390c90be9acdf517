"""Lists without the text: an empty one, a far one, a user CF knows or not."""

import types

import numpy as np
import pytest

from bigrec_jax import config as config_lib
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.devices import sharding
from bigrec_jax.rankers import grounder
from bigrec_jax.rankers.combine import candidates
from bigrec_jax.rankers.distance import streamed
from bigrec_jax.recommend import judging, list_inputs, listing
from bigrec_jax.results import chosen as chosen_lib, confidence
from tests import demo_workdir

ITEMS, WIDTH = 30, 4
RNG = np.random.default_rng(2)
VECTORS = RNG.normal(size=(ITEMS, WIDTH)).astype(np.float32)
COUNTS = RNG.permutation(ITEMS)
SCORES = RNG.normal(size=(4, ITEMS)).astype(np.float32)
SCORES[3] = 0.5  # CF knows nothing of this user.
TEXTS = [["item 4"], ["  "], ["far away"], ["far away"]]


def _chosen():
  """A confidence of 1/4 everywhere; far begins at a third."""
  shape = (2, len(confidence.SIGNS))
  logit = np.full(2, np.log(1 / 3))
  own = confidence.Confidence(np.array([1, 20]), logit, np.zeros(shape), 0.3)
  alone = confidence.Confidence(np.array([1, 20]), np.zeros(2), np.zeros(shape))
  kept = {name: alone.to_json() for name in confidence.ALONE.values()}
  return chosen_lib.Chosen(
    "cf", {"cf": 1.0}, "sasrec", confidence=kept | {"cf": own.to_json()}
  )


@pytest.fixture
def given():
  catalogue = Catalogue(
    tuple(f"i{n}" for n in range(ITEMS)),
    tuple(f"item {n}" for n in range(ITEMS)),
    COUNTS,
  )
  loaded = types.SimpleNamespace(
    config=demo_workdir.config(),
    catalogue=catalogue,
    offered=catalogue,
    mesh=sharding.make_mesh(config_lib.MeshConfig(8, 1, 1)),
  )
  shelf = Shelf()
  return list_inputs.Given(loaded, None, shelf, _chosen())


class Shelf:
  """The prepared items' vectors and purchases, and no others."""

  vectors, popularity = VECTORS, COUNTS

  def __len__(self):
    return ITEMS


def _judge(given, k=5, hidden=(), allowed=None):
  table = streamed.streamed(
    VECTORS, np.arange(ITEMS, dtype=np.int32), given.loaded.mesh
  )
  lists = types.SimpleNamespace(models=("sasrec",), table=table)
  queries = np.stack([VECTORS[4], VECTORS[0], *[VECTORS[1] + 50] * 2])
  users = candidates.Users(
    queries[:, None],
    None,
    {"sasrec": SCORES.__getitem__},
    np.full((4, 0), -1, np.int32),
    "recommend",
  )
  own = list_inputs.Texts(TEXTS, np.full(4, -0.5), None, None)
  wanted = list_inputs.Wanted(
    np.array([hidden] * 4, np.int32).reshape(4, -1), k, allowed
  )
  found = grounder.Recommended(
    np.tile(np.arange(k, dtype=np.int32), (4, 1)),
    np.ones((4, k)),
    np.zeros((4, k)),
    np.ones((4, k), np.int32),
  )
  return judging.Judge(given, lists)(found, users, own, wanted)


def test_a_text_that_names_nothing_has_no_part_in_the_list(given):
  found = _judge(given)
  assert found.fallback == [None, "cf", "cf", "popularity"]
  assert found.cold.tolist() == [False, False, False, True]
  assert found.confidence == pytest.approx([0.25, 0.5, 0.5, 0.5])
  lists = found.lists
  assert lists.items[0].tolist() == [0, 1, 2, 3, 4]  # As it was.
  for user in (1, 2):
    order = np.argsort(-SCORES[user], kind="stable")[:5]
    assert lists.items[user].tolist() == order.tolist()
    assert lists.cf_ranks[user].tolist() == [1, 2, 3, 4, 5]
    own = SCORES[user].astype(float)
    weight = (own - own.min()) / np.ptp(own)
    np.testing.assert_allclose(lists.scores[user], weight[order])
  popular = np.argsort(-COUNTS, kind="stable")[:5]
  assert lists.items[3].tolist() == popular.tolist()
  assert np.isnan(lists.distances[1]).all()  # Nothing was written.
  expected = np.linalg.norm(VECTORS[popular] - (VECTORS[1] + 50), axis=1)
  np.testing.assert_allclose(lists.distances[3], expected, rtol=1e-5)


def test_what_is_left_out_is_left_out_there_too(given):
  first = np.argsort(-SCORES[1], kind="stable")
  allowed = np.zeros(ITEMS, bool)
  allowed[first[1:4]] = True
  found = _judge(given, k=3, hidden=(int(first[2]),), allowed=allowed).lists
  assert found.items[1].tolist() == [first[1], first[3], -1]


def test_without_an_evaluation_only_nothing_falls_back(given):
  plain = given._replace(chosen=chosen_lib.Chosen("cf", {"cf": 2.0}, "sasrec"))
  found = _judge(plain)
  assert found.fallback == [None, "cf", None, None]
  assert found.confidence == [None] * 4


def test_an_empty_text_gives_way_to_the_next():
  written = {"predict": ['""\n', " Doom ", ""], "scores": [-0.1, -0.2, -0.3]}
  kept = listing._with_letters(written)
  assert kept == {"predict": [" Doom "], "scores": [-0.2]}
  nothing = {"predict": ["", '"'], "scores": [-0.1, -0.2]}
  assert listing._with_letters(nothing) == {"predict": [""], "scores": [-0.1]}
