"""BM25 of the history's titles in a fusion, against token-by-token scores."""

import dataclasses
import json

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.config import from_config_dict
from bigrec_jax.rankers import bm25
from bigrec_jax.rankers.combine import (
  candidates,
  features,
  fused_lists,
  fused_ranks,
  fusion,
  fusion_fit,
)
from bigrec_jax.results import metrics
from configs import demo
from tests.rankers import test_bm25
from tests.rankers.combine import fusion_world

CONFIG = from_config_dict(demo.get_config("tiny")).ground
SETTINGS = bm25.Settings(1.2, 0.75)
USERS, ITEMS = 60, 300
WORDS = features.WORDS


class _World(fusion_world.World):
  """A world whose last model is BM25."""

  @property
  def items(self):
    return features.Items(self.counts, tuple(self.users.cf), SETTINGS)


def _world(with_cf=True):
  """Returns a world, its titles, and BM25 scores by the formula [N, I].

  A target shares the rare word of an item of the history; text and CF are
  noise. The last user has no history.
  """
  world = fusion_world.make(
    users=USERS, items=ITEMS, text_noise=np.inf, cf_noise=np.inf
  )
  rng = np.random.default_rng(1)
  titles = [
    f"{rng.choice(['the', 'a', 'old'])} w{n // 3} s{rng.integers(20)}"
    for n in range(ITEMS)
  ]
  history = np.full((USERS, 6), -1, np.int32)
  history[:, :3] = rng.integers(0, ITEMS, (USERS, 3))
  history[-1] = -1
  series = history[:, 2] // 3
  targets = (series * 3 + (history[:, 2] + 1) % 3).astype(np.int32)
  targets[-1] = 5
  terms = bm25.Terms(titles)
  index, counts = bm25.Index(terms, SETTINGS), terms.history_counts(history)
  asked = []

  def read(part):
    asked.append(part.stop - part.start)
    return index.scores(counts[part])

  cf = {"cf": world.users.cf["cf"]} if with_cf else {}
  users = dataclasses.replace(
    world.users, cf={**cf, WORDS: read}, history=history
  )
  slow = np.array(
    [
      test_bm25._slow(
        titles, " ".join(titles[i] for i in own if i >= 0), 1.2, 0.75
      )
      for own in history
    ]
  )
  own = _World(
    world.vectors, world.groups, world.counts, users, targets, world.scores
  )
  return own, slow, asked


def _ranks(valid, fused):
  return fused_ranks.ranks(
    fused.scores(valid.found, valid.known, valid.items),
    features.costs(fused.base, valid.found, valid.items),
    valid.found.items,
    valid.judged.own,
    valid.judged.rest[fused.base],
  )


def test_items_of_shared_words_are_candidates_and_no_others():
  world, slow, _ = _world()
  found = world.gatherer()(world.users, most_users=8)
  at = list(world.users.cf).index(WORDS)
  for user in range(USERS):
    places = found.cf_places[user, :, at]
    listed = found.items[user][places < candidates.CF]
    assert (slow[user, listed] > 0).all()
    assert len(listed) == min((slow[user] > 0).sum(), candidates.CF)
    left = np.setdiff1d(np.arange(ITEMS), listed)
    if len(listed):
      # Two scores of one value may differ by a rounding.
      assert slow[user, listed].min() >= slow[user, left].max() - 1e-5
    real = found.items[user] >= 0
    np.testing.assert_allclose(
      found.cf[user, real, at],
      slow[user, found.items[user, real]],
      rtol=1e-5,
      atol=1e-6,
    )
  assert (found.cf_places[-1, :, at] == candidates.CF).all()  # No history.


def test_scores_are_made_a_block_of_users_at_a_time(monkeypatch):
  world, _, asked = _world()
  whole = world.valid()
  monkeypatch.setattr(candidates, "_MOST_CF_SCORES", 16 * ITEMS)
  monkeypatch.setattr(fused_ranks, "_MOST_SCORES", 8 * ITEMS)
  asked.clear()
  valid = world.valid()
  assert max(asked) == 8  # Of two models.
  for name in ("items", "cf", "cf_places", "cf_range"):
    np.testing.assert_array_equal(
      getattr(whole.found, name), getattr(valid.found, name)
    )
  np.testing.assert_array_equal(
    whole.judged.alone[WORDS], valid.judged.alone[WORDS]
  )


def test_a_fusion_learns_that_words_count_and_the_history_does_not():
  world, _, _ = _world()
  valid = world.valid()
  fitted = fusion_fit.fit(valid, 0)
  alone = valid.judged.alone
  assert fitted.fusion.base == WORDS
  ndcg = {part: metrics.ndcg(own, 20) for part, own in alone.items()}
  assert metrics.ndcg(fitted.ranks, 20) > max(ndcg.values()) + 0.05
  says = "\n".join(fitted.report["says"])
  assert "Being in the history divides" in says
  by = "the words of the history's titles"
  assert f"Being the first new item by {by} rather than the tenth mult" in says
  assert f"All other items follow in the order of {by}." in says
  assert "bm25" not in says
  text = json.dumps(fitted.report["parameters"])
  assert json.loads(text)["words"] == {"k1": 1.2, "b": 0.75}
  again = fusion.Fusion.from_json(json.loads(text), "here:")
  assert again.words == SETTINGS
  np.testing.assert_array_equal(
    _ranks(valid, again), _ranks(valid, fitted.fusion)
  )


@pytest.mark.parametrize("with_cf", [True, False])
@pytest.mark.parametrize("base", [WORDS, "text"])
def test_lists_are_in_the_order_of_ranks(with_cf, base):
  world, slow, _ = _world(with_cf)
  valid = world.valid()
  fused = fusion.Fusion(
    fusion.RECIPROCAL, "all", valid.items.parts, base, words=SETTINGS
  )
  ranks = _ranks(valid, fused)
  lists = fused_lists.FusedLists(
    fused,
    world.vectors,
    world.groups,
    world.counts,
    CONFIG,
    fusion_world.mesh(8),
  )
  # In another order than the parts have.
  cf = dict(reversed(world.users.cf.items()))
  users = dataclasses.replace(world.users, cf=cf)
  found = lists(users, np.zeros((USERS, 0), np.int32), ITEMS)
  for user in range(USERS):
    listed = found.items[user].tolist()
    assert listed.index(world.targets[user]) == ranks[user]
  assert (found.cf_ranks is not None) == with_cf
  # A sum of reciprocal places has BM25 as one of its lists.
  scores = fused.scores(valid.found, valid.known, valid.items)
  without = valid.found.cf_places.copy()
  at = valid.items.models.index(WORDS)
  places = without[:, :, at].copy()
  without[:, :, at] = candidates.CF
  less = fused.scores(
    valid.found._replace(cf_places=without), valid.known, valid.items
  )
  np.testing.assert_allclose(
    scores - less,
    np.where(places < candidates.CF, 1 / (61 + places), 0.0),
    rtol=1e-9,
    atol=1e-15,
  )


def test_a_fusion_of_before_has_no_words_and_odd_ones_are_refused():
  fused = fusion.Fusion(
    fusion.RECIPROCAL, "all", ("text", WORDS), WORDS, words=SETTINGS
  )
  plain = json.loads(json.dumps(fused.to_json()))
  older = plain | {"parts": ["text", "popularity"], "base": "text"}
  del older["words"]
  assert fusion.Fusion.from_json(older, "here:").words is None
  for change, said in (
    ({"words": None}, "a part bm25 without words"),
    ({"words": {"k1": -1.0, "b": 0.5}}, "k1 of at least 0 and b from 0 to 1"),
    ({"words": {"k1": 1.0, "b": 2}}, "k1 of at least 0 and b from 0 to 1"),
    ({"words": {"k1": 1.0}}, "b expected"),
  ):
    with pytest.raises(errors.UserError, match=said):
      fusion.Fusion.from_json(plain | change, "here:")


def test_odds_of_a_rare_feature_are_those_that_scores_have():
  world = fusion_world.make(users=USERS)
  valid = world.valid()
  rare = np.zeros(valid.found.items.shape, np.float32)
  rare[np.arange(12), valid.judged.own[:12].argmax(axis=1)] = 1.0
  known = valid.known._replace(columns={**valid.known.columns, "cold": rare})
  valid = dataclasses.replace(valid, known=known)
  fitted = fusion_fit.fit(valid, 0)
  with_cold = fitted.fusion.scores(valid.found, known, valid.items)
  none = known._replace(columns={**known.columns, "cold": 0 * rare})
  odds = np.exp(
    with_cold - fitted.fusion.scores(valid.found, none, valid.items)
  )
  assert fitted.report["form"] == "linear"
  (said,) = [s for s in fitted.report["says"] if s.startswith("Never having")]
  own = float(said.split(" by ")[1].rstrip("."))
  np.testing.assert_allclose(odds[rare > 0], own, rtol=5e-3)
