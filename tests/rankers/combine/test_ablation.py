"""A part that is taken out leaves what there is of a world without it."""

import dataclasses

import numpy as np
import pytest

from bigrec_jax.config import ground
from bigrec_jax.rankers import bm25
from bigrec_jax.rankers.combine import (
  ablation,
  candidates,
  features,
  fused_ranks,
  fusion_fit,
)
from bigrec_jax.rankers.distance import streamed
from tests.rankers.combine import fusion_world


def _world(without=""):
  """Returns a world of two models, as if a part had never been."""
  world = fusion_world.make(cf_noise=0.8, seed=3)
  rng = np.random.default_rng(5)
  words = rng.normal(size=world.scores["cf"].shape).astype(np.float32)
  scores = {"cf": world.scores["cf"], features.WORDS: words}
  scores.pop(without, None)
  counts = 0 * world.counts if without == "popularity" else world.counts
  users = dataclasses.replace(
    world.users, cf={name: own.__getitem__ for name, own in scores.items()}
  )
  items = features.Items(
    None if without == "popularity" else counts,
    tuple(scores),
    bm25.Settings(1.2, 0.75) if features.WORDS in scores else None,
  )
  table = streamed.streamed(world.vectors, world.groups, fusion_world.mesh())
  gatherer = candidates.Gatherer(table, counts, block_items=1 << 12)
  return world, users, items, gatherer(users)


def _valid(world, users, items, found):
  judged = fused_ranks.judge(
    found,
    users,
    items,
    world.vectors,
    world.targets,
    world.groups,
    world.plain(),
  )
  known = features.of(found, users, items)
  owners = np.arange(len(world.targets))
  return fusion_fit.Valid(found, known, items, judged, world.targets, owners)


@pytest.mark.parametrize("part", ["cf", "bm25", "popularity"])
def test_all_that_a_part_knows_is_gone(part):
  world, users, items, found = _world()
  found, users, items = ablation.without(part, found, users, items)
  other, o_users, o_items, o_found = _world(part)
  assert items.models == o_items.models and items.words == o_items.words
  for one, expected in zip(found.items, o_found.items, strict=True):
    np.testing.assert_array_equal(one[one >= 0], expected[expected >= 0])
  real, o_real = found.real, o_found.real
  for key in ("distances", "places", "cf", "cf_places"):
    own, of_other = getattr(found, key), getattr(o_found, key)
    np.testing.assert_allclose(own[real], of_other[o_real], rtol=1e-6)
  less = fusion_fit.fit(_valid(world, users, items, found), 0)
  expected = fusion_fit.fit(_valid(other, o_users, o_items, o_found), 0)
  np.testing.assert_array_equal(less.ranks, expected.ranks)
  assert less.fusion.columns.names == expected.fusion.columns.names


def test_without_the_text_its_words_are_never_read():
  world, users, items, found = _world()
  less, users, items = ablation.without("text", found, users, items)
  popular = candidates.popular_places(items.popularity)
  for n, row in enumerate(less.items):
    own = set(np.flatnonzero(popular < candidates.POPULAR))
    for scores in (users.cf["cf"], users.cf["bm25"]):
      first = np.argsort(-scores(slice(n, n + 1))[0], kind="stable")
      own |= set(first[: candidates.CF])
    assert set(row[row >= 0]) == own
  valid = _valid(world, users, items, less)
  told = ablation.forget_text(valid.known, valid.judged)
  valid = dataclasses.replace(valid, known=told[0], judged=told[1])
  fitted = fusion_fit.fit(valid, 0)
  names = (*fitted.fusion.columns.names, *fitted.fusion.gates.names)
  assert not [name for name in names if "text" in name]
  assert fitted.fusion.base != "text"


def test_parts_are_those_of_the_configuration():
  items = _world()[2]
  assert all(ablation.is_there(part, items) for part in ground.PARTS)
  assert not ablation.is_there("bm25", _world("bm25")[2])
