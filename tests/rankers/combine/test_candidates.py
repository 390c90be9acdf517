"""Candidates and their features against loops over whole rows."""

import dataclasses

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.rankers.combine import candidates, features
from bigrec_jax.workdir import parts
from tests.rankers.combine import fusion_world


def _first(scores, count):
  """Returns the first rows of a stable descending sort."""
  return np.argsort(-scores, kind="stable")[:count].tolist()


def _slow(world, user):
  """Returns {item: (places by text, distances, place by CF)} of a user."""
  users = world.users
  scores = world.scores["cf"][user]
  lengths = [candidates.FIRST_TEXT, candidates.OTHER_TEXTS]
  lists, distances = [], []
  for query, length in zip(users.queries[user], lengths, strict=False):
    own = np.linalg.norm(
      world.vectors.astype(np.float64) - query.astype(np.float64), axis=1
    )
    distances.append(own)
    lists.append(_first(-own, length))
  by_cf = [
    item
    for item in _first(scores, candidates.CF)
    if scores[item] > scores.min()
  ]
  popular = [
    item
    for item in _first(world.counts, candidates.POPULAR)
    if world.counts[item]
  ]
  found = {}
  for item in sorted({*sum(lists, []), *by_cf, *popular}):
    places = [
      own.index(item) if item in own else length
      for own, length in zip(lists, lengths, strict=False)
    ]
    place = by_cf.index(item) if item in by_cf else candidates.CF
    found[item] = places, [own[item] for own in distances], place
  return found


@pytest.mark.parametrize("devices", [1, 8])
def test_candidates_are_the_first_of_every_part(devices):
  world = fusion_world.make(users=21, items=400, repeats=20)
  world.scores["cf"][4] = 1.5  # Says nothing of its user.
  world.scores["cf"][5, 30:] = world.scores["cf"][5].min()
  found = world.gatherer(devices)(world.users, most_users=8)
  for user in range(21):
    slow = _slow(world, user)
    own = found.items[user]
    assert own[own >= 0].tolist() == list(slow)
    assert (own[len(slow) :] == -1).all()
    for slot, (places, distances, place) in enumerate(slow.values()):
      assert found.places[user, slot].tolist() == places
      np.testing.assert_allclose(
        found.distances[user, slot], distances, rtol=1e-12
      )
      assert found.cf_places[user, slot, 0] == place
      assert found.cf[user, slot, 0] == world.scores["cf"][user, own[slot]]
  scores = world.scores["cf"].astype(np.float64)
  np.testing.assert_allclose(
    found.cf_range[:, 0],
    np.stack(
      [scores.min(1), scores.max(1), np.log(np.exp(scores).sum(1))], axis=1
    ),
    rtol=1e-6,
  )


def test_a_kill_costs_one_block_and_users_are_found_alone_as_together():
  world, known = fusion_world.make(users=20), {}

  def once(key, make):
    if key not in known:
      known[key] = make()
    return known[key]

  gather = world.gatherer()
  whole = gather(world.users, once, most_users=8)
  assert list(known) == [
    "candidates 0-8",
    "candidates 8-16",
    "candidates 16-20",
  ]
  known.pop("candidates 8-16")
  again = gather(world.users, once, most_users=8)
  alone = gather(world.users.of(slice(9, 11)))
  for own, other, few in zip(whole, again, alone, strict=True):
    np.testing.assert_array_equal(own, other)
    np.testing.assert_allclose(own[9:11], few, rtol=1e-6)


@pytest.mark.parametrize("texts", [1, 2])
def test_blocks_on_disk_are_what_was_gathered(tmp_path, texts):
  world = fusion_world.make(users=20, texts=texts)
  bare = dataclasses.replace(world.users, cf={})  # Arrays without any number.
  gather = world.gatherer()
  for users in (world.users, bare):
    path = tmp_path / f"{len(users.cf)}.parts"
    for _ in range(2):  # Made, then read.
      with parts.Parts(path, "work") as kept:
        found = gather(users, kept.once, most_users=8)
    for own, other in zip(gather(users), found, strict=True):
      assert own.dtype == other.dtype
      np.testing.assert_allclose(own, other, rtol=1e-6)


def test_scores_that_are_not_finite_are_named():
  world = fusion_world.make(users=20)
  world.scores["cf"][13, 7] = np.nan
  with pytest.raises(errors.UserError, match="cf: row 13 holds NaN"):
    world.gatherer()(world.users, most_users=8)


def test_features_are_what_they_say():
  world = fusion_world.make(users=9, texts=3)
  found = world.gatherer()(world.users)
  columns, gates = features.of(found, world.users, world.items)
  logs = world.users.log_probs.astype(np.float64)
  for user in range(9):
    mass = np.exp(logs[user]) / np.exp(logs[user]).sum()
    seen = set(world.users.history[user].tolist()) - {-1}
    np.testing.assert_allclose(
      gates["log history length"][user],
      np.log1p((world.users.history[user] >= 0).sum()),
      rtol=1e-6,
    )
    scores = world.scores["cf"][user].astype(np.float64)
    softmax = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(
      gates["cf: probability of its first"][user], softmax.max(), rtol=1e-5
    )
    distances = np.linalg.norm(
      world.vectors[None].astype(np.float64)
      - world.users.queries[user][:, None].astype(np.float64),
      axis=2,
    )  # [B, I]
    low = distances.min(axis=1, keepdims=True)
    scaled = (distances - low) / (distances.max(axis=1, keepdims=True) - low)
    for slot, item in enumerate(found.items[user]):
      if item < 0:
        continue
      expected = {
        "text: distance": distances[0, item],
        "text: normalised distance": scaled[0, item],
        "text: exact title": distances[0, item] == 0,
        "texts: least normalised distance": scaled[:, item].min(),
        "texts: mean normalised distance": mass @ scaled[:, item],
        "texts: probability that is nearest": mass @ (scaled[:, item] == 0),
        "cf: log probability": np.log(softmax[item]),
        "cf: normalised score": (scores[item] - scores.min())
        / (scores.max() - scores.min()),
        "log popularity": np.log1p(world.counts[item]),
        "cold": world.counts[item] == 0,
        "in history": item in seen,
      }
      for name, value in expected.items():
        np.testing.assert_allclose(
          columns[name][user, slot], value, rtol=1e-4, atol=1e-5, err_msg=name
        )


def test_what_is_missing_has_no_column():
  world = fusion_world.make(users=9, texts=1)
  bare = candidates.Users(
    world.users.queries, None, {}, world.users.history, "bare"
  )
  items = features.Items(None, ())
  found = world.gatherer()(bare)
  assert found.cf.shape == (*found.items.shape, 0)
  columns, gates = features.of(found, bare, items)
  assert not [name for name in columns if "cf" in name or "popular" in name]
  assert not [name for name in (*columns, *gates) if name.startswith("texts")]
  assert items.parts == ("text",)


def test_what_only_some_candidates_have_is_marked():
  world = fusion_world.make(users=3)
  found = world.gatherer()(world.users)
  likelihood = np.full(found.items.shape, np.nan)
  likelihood[0, :2] = -3.0, -1.0
  columns, _ = features.of(
    found, world.users, world.items, {"likelihood": likelihood}
  )
  own, asked = columns["likelihood"], columns["likelihood: asked"]
  assert own[0, :3].tolist() == [-3.0, -1.0, -3.0]
  assert asked[0, :3].tolist() == [1.0, 1.0, 0.0]
  assert not own[1].any() and not asked[1].any()


def test_a_text_that_is_repeated_changes_nothing():
  world = fusion_world.make(users=6, texts=2)
  users = world.users
  logs = users.log_probs.astype(np.float64)
  logs[2, 1] = -np.inf  # It wrote one text.
  odd = users.queries.copy()
  odd[2, 1] = 9.0
  wide = candidates.repeated(odd, logs, 4)
  assert wide[0].shape == (6, 4, 8) and wide[1].shape == (6, 4)
  np.testing.assert_array_equal(wide[0][2, 1:], odd[[2, 2, 2], 0])
  few = candidates.repeated(odd, logs, 2)
  gather = world.gatherer()
  two, four = (
    features.of(gather(own), own, world.items)
    for own in (
      candidates.Users(*x, users.cf, users.history, "x") for x in (few, wide)
    )
  )
  real = gather(candidates.Users(*few, users.cf, users.history, "x")).real
  for name, own in two.columns.items():
    other = four.columns[name][:, : own.shape[1]]
    np.testing.assert_allclose(own[real], other[real], rtol=1e-6, err_msg=name)
