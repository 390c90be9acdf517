"""Reasons against slow loops: places by each part, and who had both."""

import types

import numpy as np

from bigrec_jax import config as config_lib
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.data.prepared.examples import Examples
from bigrec_jax.devices import sharding
from bigrec_jax.rankers import grounder
from bigrec_jax.rankers.combine import candidates
from bigrec_jax.rankers.distance import streamed
from bigrec_jax.recommend import cf_scorer, explaining, list_inputs
from tests import demo_workdir

ITEMS, USERS = 12, 40
RNG = np.random.default_rng(5)
VECTORS = RNG.normal(size=(ITEMS, 3)).astype(np.float32)
COUNTS = RNG.permutation(ITEMS)
HAD = [set(RNG.permutation(ITEMS)[:4].tolist()) for _ in range(USERS)]


def _train():
  rows = np.array([sorted(own) for own in HAD], np.int32)
  numbers = np.arange(USERS)
  return Examples("train", numbers, rows[:, :3], rows[:, 3], numbers, numbers)


def test_places_and_what_was_had_together(monkeypatch):
  monkeypatch.setattr(cf_scorer, "train_examples", lambda loaded: _train())
  mesh = sharding.make_mesh(config_lib.MeshConfig(8, 1, 1))
  catalogue = Catalogue(
    tuple(f"i{n}" for n in range(ITEMS)),
    tuple(f"item {n}" for n in range(ITEMS)),
    COUNTS,
  )
  loaded = types.SimpleNamespace(
    config=demo_workdir.config(),
    catalogue=catalogue,
  )
  groups = np.arange(ITEMS, dtype=np.int32)
  table = streamed.streamed(VECTORS, groups, mesh)
  explain = explaining.Explainer(loaded, table, COUNTS)
  queries = np.stack([VECTORS[2], VECTORS[2] + 0.1])
  history = np.array([[0, 5, -1], [-1, -1, -1]], np.int32)
  users = candidates.Users(queries[:, None], None, {}, history, "recommend")
  texts = list_inputs.Texts(
    [["item 2"], ["something"]], np.zeros(2), None, None
  )
  items = np.array([[2, 7, -1], [3, 2, 9]], np.int32)
  ranks = np.array([[4, 1, 0], [2, 3, 5]], np.int32)
  found = grounder.Recommended(items, np.ones((2, 3)), np.ones((2, 3)), ranks)
  reasons = explain(users, texts, history, found, [None, "cf"])
  assert [len(own) for own in reasons] == [2, 3]
  for n, own in enumerate(reasons):
    order = np.argsort(np.linalg.norm(VECTORS - queries[n], axis=1))
    for place, why in enumerate(own):
      item = items[n, place]
      near = int(np.flatnonzero(order == item)[0]) + 1
      popular = int((COUNTS > COUNTS[item]).sum()) + 1
      expected = {"text": near, "cf": int(ranks[n, place])}
      if n == 1:  # The text has no part in that list.
        expected["text"] = None
      expected["popularity"] = popular if COUNTS[item] else None
      assert why["places"] == expected
      known = {part: x for part, x in expected.items() if x is not None}
      assert why["decided"] == min(known, key=known.get)
  assert reasons[0][0]["words"].startswith("this is what was written; place 1")
  for why, item in zip(reasons[0], (2, 7), strict=True):
    shares = {}
    for other in (0, 5):
      of = [own for own in HAD if other in own]
      both = sum(item in own for own in of)
      if both >= 2:
        shares[other] = both / len(of), both, len(of)
    best = max(shares, key=lambda other: shares[other][0])
    assert why["together"] == {
      "external_id": f"i{best}",
      "title": f"item {best}",
      "users": shares[best][1],
      "of": shares[best][2],
    }
  assert all(why["together"] is None for why in reasons[1])
