"""Fused ranks and lists against sorted rows, and how fusion takes bad parts."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.config import from_config_dict
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
from tests.rankers.combine import fusion_world

CONFIG = from_config_dict(demo.get_config("tiny")).ground


def _reciprocal(world, base):
  return fusion.Fusion(fusion.RECIPROCAL, "all", world.items.parts, base)


@functools.cache
def _fitted(**kinds):
  world = fusion_world.make(**kinds)
  valid = world.valid()
  return world, valid, fusion_fit.fit(valid, 0)


def _scores_of(valid, fused):
  return fused.scores(valid.found, valid.known, valid.items)


def _ranks(valid, fused):
  return fused_ranks.ranks(
    _scores_of(valid, fused),
    features.costs(fused.base, valid.found, valid.items),
    valid.found.items,
    valid.judged.own,
    valid.judged.rest[fused.base],
  )


def _order(world, valid, fused, user):
  """Returns the whole catalogue in fused order, by sorting."""
  scores = _scores_of(valid, fused)[user]
  fused_score = {
    item: scores[slot]
    for slot, item in enumerate(valid.found.items[user].tolist())
    if item >= 0
  }
  distances = np.linalg.norm(
    world.vectors.astype(np.float64)
    - world.users.queries[user, 0].astype(np.float64),
    axis=1,
  )
  cost = {
    "text": distances,
    "cf": -world.scores["cf"][user],
    "popularity": -world.counts,
  }[fused.base]
  return sorted(
    range(len(cost)),
    key=lambda item: (
      item not in fused_score,
      -fused_score.get(item, 0.0),
      cost[item],
      item,
    ),
  )


@pytest.mark.parametrize("base", ["text", "cf", "popularity", "calibrated"])
@pytest.mark.parametrize("repeats", [0, 40])
def test_ranks_and_lists_are_those_of_the_whole_catalogue_in_order(
  base, repeats
):
  world = fusion_world.make(
    seed=3, users=24, items=500, repeats=repeats, text_noise=1.5, cf_noise=2.0
  )
  world.scores["cf"][:] = np.round(world.scores["cf"], 1)  # Many ties.
  # Half of the targets are what no part expects.
  world.targets[::2] = np.random.default_rng(4).integers(0, 500, 12)
  valid = world.valid()
  fused = (
    fusion_fit.fit(valid, 0).fusion
    if base == "calibrated"
    else _reciprocal(world, base)
  )
  ranks = _ranks(valid, fused)
  behind = ~valid.judged.own.any(axis=1)
  assert behind.any() and not behind.all()
  lists = fused_lists.FusedLists(
    fused,
    world.vectors,
    world.groups,
    world.counts,
    CONFIG,
    fusion_world.mesh(8),
  )
  found = lists(world.users, np.zeros((24, 0), np.int32), 500)
  hidden = lists(world.users, world.users.history, 20)
  allowed = np.arange(len(world.groups)) % 3 > 0
  some = lists(world.users, world.users.history, 20, None, allowed)
  for user in range(24):
    order = _order(world, valid, fused, user)
    titles = world.groups[order].tolist()
    target = world.groups[world.targets[user]]
    assert ranks[user] == titles.index(target)
    distinct = list(dict.fromkeys(titles))
    items = found.items[user]
    listed = world.groups[items[items >= 0]].tolist()
    assert listed == distinct
    history = world.users.history[user]
    seen = world.groups[history[history >= 0]].tolist()
    kept = [title for title in distinct if title not in seen]
    assert world.groups[hidden.items[user]].tolist() == kept[:20]
    # Rows of one title may score apart; the first allowed one is listed.
    left = {}
    for row in order:
      if allowed[row] and world.groups[row] in kept:
        left.setdefault(world.groups[row], row)
    assert some.items[user].tolist() == list(left.values())[:20]
    place = found.cf_ranks[user, 0] - 1
    own = world.scores["cf"][user]
    assert place == (own > own[found.items[user, 0]]).sum()
  assert (np.diff(found.scores, axis=1) <= 0).all()


def test_reciprocal_ranks_are_those_of_the_paper():
  world = fusion_world.make(users=12)
  valid = world.valid()
  scores = _scores_of(valid, _reciprocal(world, "text"))
  for user in range(12):
    text = np.linalg.norm(world.vectors - world.users.queries[user, 0], axis=1)
    orders = (
      np.argsort(text, kind="stable")[: candidates.FIRST_TEXT],
      np.argsort(-world.scores["cf"][user])[: candidates.CF],
      np.argsort(-world.counts, kind="stable")[: candidates.POPULAR],
    )
    for slot, item in enumerate(valid.found.items[user]):
      if item >= 0:
        expected = sum(
          1 / (60 + order.tolist().index(item) + 1)
          for order in orders
          if item in order
        )
        np.testing.assert_allclose(scores[user, slot], expected, rtol=1e-12)


def test_a_fusion_beats_its_parts_and_moves_the_first_place():
  _, valid, fitted = _fitted(users=200, text_noise=1.0)
  alone = {
    part: metrics.ndcg(own, 20) for part, own in valid.judged.alone.items()
  }
  assert fitted.report["valid_ndcg@20"] > max(alone.values()) + 0.05
  text = valid.judged.alone["text"]
  assert (fitted.ranks[text > 0] == 0).any()
  assert fitted.report["valid_ndcg@20"] == metrics.ndcg(fitted.ranks, 20)
  says = fitted.report["says"]
  assert any(
    s.startswith("Being the first by cf rather than its tenth") for s in says
  )
  assert any("purchases multiplies" in s for s in says)


@pytest.mark.parametrize("bad", ["text_noise", "cf_noise"])
@pytest.mark.parametrize("users", [40, 300])
def test_a_part_that_knows_nothing_does_little_harm(bad, users):
  kinds = {bad: np.inf}
  world, valid, fitted = _fitted(users=users, seed=5, **kinds)
  part = fitted.fusion.base
  best = valid.judged.alone[part]
  assert metrics.ndcg(best, 20) == max(
    metrics.ndcg(own, 20) for own in valid.judged.alone.values()
  )
  gains = [
    np.where(own < 20, 1 / np.log2(own + 2.0), 0.0)
    for own in (fitted.ranks, best)
  ]
  more = gains[0] - gains[1]
  assert more.mean() > -2 * more.std() / np.sqrt(users)
  # New users of the same world, which nothing was fitted on.
  other = fusion_world.make(users=300, seed=5, **kinds)
  fresh = dataclasses.replace(
    other, users=dataclasses.replace(other.users, name="test")
  ).valid()
  own = metrics.ndcg(_ranks(fresh, fitted.fusion), 20)
  assert own > metrics.ndcg(fresh.judged.alone[part], 20) - 0.02


@pytest.mark.parametrize("users", [1, 2, 7])
def test_a_handful_of_users_is_enough_to_go_on(users):
  world = fusion_world.make(users=users, seed=users)
  valid = world.valid()
  fitted = fusion_fit.fit(valid, 0)
  assert len(fitted.ranks) == users
  assert np.isfinite(_scores_of(valid, fitted.fusion)).all()
  if users == 1:
    assert not fitted.fusion.weights
    assert fitted.report["says"][0].startswith("Valid likes the order of")


def test_nobody_took_a_candidate():
  world = fusion_world.make(users=30, items=900, text_noise=np.inf)
  users = dataclasses.replace(world.users, cf={})
  valid = dataclasses.replace(world, users=users, scores={}).valid()
  none = valid.judged._replace(own=np.zeros_like(valid.judged.own))
  fitted = fusion_fit.fit(dataclasses.replace(valid, judged=none), 0)
  assert fitted.report["users_with_the_target_among_candidates"] == 0
  assert not fitted.fusion.weights
  rest = none.rest[fitted.fusion.base]
  np.testing.assert_array_equal(fitted.ranks, rest)


def test_columns_of_one_value_are_left_out():
  world = fusion_world.make(users=60)
  world.counts[:] = 3  # Of popularity only its name is left.
  valid = world.valid()
  fitted = fusion_fit.fit(valid, 0)
  names = fitted.fusion.columns.names
  assert "log popularity" not in names and "cold" not in names
  assert np.isfinite(_scores_of(valid, fitted.fusion)).all()


def test_valid_is_ranked_by_weights_that_never_saw_its_user():
  world, valid, fitted = _fitted(users=120, seed=7)
  folds = fusion_fit.folds_of(valid.owners, 0)
  assert np.bincount(folds).tolist() == [24] * 5
  # Targets of a fold are moved: what others learnt changes, its own doesn't.
  own = folds == 2
  moved = valid.judged.own.copy()
  moved[own] = np.roll(moved[own], 1, axis=1) & valid.found.real[own]
  other = fusion_fit.fit(
    dataclasses.replace(valid, judged=valid.judged._replace(own=moved)), 0
  )
  one, two = (x.fusion for x in (fitted, other))
  assert one.weights != two.weights

  def without(of):
    fit = fusion_fit._Fit(of, 0)
    setting, _ = fit._choose(range(5), frozenset({2}))
    return setting, fit._trained(frozenset({2}), setting)

  setting, weights = without(valid)
  again, same = without(
    dataclasses.replace(valid, judged=valid.judged._replace(own=moved))
  )
  assert setting == again
  np.testing.assert_allclose(weights, same, rtol=1e-5, atol=1e-6)


def test_rows_of_one_user_are_in_one_fold():
  owners = np.array([5, 5, 9, 9, 9, 1, 2, 3, 4, 5])
  folds = fusion_fit.folds_of(owners, 1)
  for owner in np.unique(owners):
    assert len(set(folds[owners == owner].tolist())) == 1
  assert set(folds.tolist()) == set(range(5))
  assert fusion_fit.folds_of(owners, 1).tolist() == folds.tolist()


def test_a_fit_is_the_same_again_and_on_eight_devices():
  world, _, fitted = _fitted(users=120, seed=7)
  again = fusion_fit.fit(world.valid(8), 0)
  np.testing.assert_array_equal(again.ranks, fitted.ranks)
  np.testing.assert_allclose(
    again.fusion.weights, fitted.fusion.weights, rtol=1e-3, atol=1e-4
  )


def test_json_keeps_every_bit_and_what_is_odd_is_refused():
  _, valid, fitted = _fitted(users=120, seed=7)
  text = json.dumps(fitted.report["parameters"], allow_nan=False)
  again = fusion.Fusion.from_json(json.loads(text), "here:")
  np.testing.assert_array_equal(
    _scores_of(valid, again), _scores_of(valid, fitted.fusion)
  )
  odd = json.loads(text)
  odd["columns"]["names"].pop()
  with pytest.raises(errors.UserError, match="columns: lists of unequal"):
    fusion.Fusion.from_json(odd, "here:")
  odd = json.loads(text) | {"base": "bm25"}
  with pytest.raises(errors.UserError, match="weights don't fit"):
    fusion.Fusion.from_json(odd, "here:")
  odd = json.loads(text)
  odd["columns"]["deviation"][0] = 0.0
  with pytest.raises(errors.UserError, match="a deviation of 0 or less"):
    fusion.Fusion.from_json(odd, "here:")
  odd = json.loads(text)
  odd["columns"]["names"][0] = "horoscope"
  later = fusion.Fusion.from_json(odd, "here:")
  with pytest.raises(errors.UserError, match="reads 'horoscope' found"):
    _scores_of(valid, later)
