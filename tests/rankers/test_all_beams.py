"""The mixture over beams against a loop over users, beams and items."""

import jax
import numpy as np
import pytest
from scipy import special

from bigrec_jax import config as config_lib
from bigrec_jax.config import MeshConfig
from bigrec_jax.decoding import stepping
from bigrec_jax.devices import sharding
from bigrec_jax.rankers import (
  all_beams,
  all_beams_choice,
  beam_texts,
  engine,
)
from bigrec_jax.results import metrics
from configs import common
from tests.rankers import published

USERS, BEAMS, ITEMS, WIDTH = 13, 3, 57, 6
RNG = np.random.default_rng(3)
VECTORS = RNG.normal(2.0, 1.0, (ITEMS, WIDTH)).astype(np.float32)
TITLES = [f"t{i % 50}" for i in range(ITEMS)]
GROUPS = published.groups(TITLES)
VECTORS = VECTORS[GROUPS]  # Equal titles have equal vectors.
TARGETS = RNG.integers(0, ITEMS, USERS).astype(np.int32)
QUERIES = RNG.normal(2.0, 1.0, (USERS, BEAMS, WIDTH)).astype(np.float32)
EXACT = np.full((USERS, BEAMS), -1, np.int32)
EXACT[::2, 0] = GROUPS[RNG.permutation(50)[:7]]
EXACT[::3, 2] = GROUPS[RNG.permutation(50)[:5]]
QUERIES[EXACT >= 0] = VECTORS[EXACT[EXACT >= 0]]
LOGS = np.log(RNG.uniform(0.01, 1, (USERS, BEAMS)))
LOGS[4, 1:] = -np.inf  # One beam alone,
LOGS[5] = -np.inf  # and none that is possible.
SETTINGS = [
  all_beams.Settings(0.0, 1 / 16, 0.1),
  all_beams.Settings(1.0, 1 / 16, 0.1),
  all_beams.Settings(2.0, 1 / 64, 0.5),
]


def _mesh(sizes):
  devices = jax.devices()[: np.prod(sizes)]
  return sharding.make_mesh(MeshConfig(*sizes), devices)


def _ranker(mesh, settings):
  table = all_beams.table(VECTORS, GROUPS, mesh)
  beams = all_beams.measure(
    table, QUERIES, EXACT, LOGS, all_beams_choice.ITEM_TEMPERATURES
  )
  return all_beams.AllBeams(table, beams, settings)


def _slow(settings):
  """Returns the mixture's probabilities [N, I], by its definition."""
  found = np.zeros((USERS, ITEMS))
  for user in range(USERS):
    if settings.beam_temperature == 0:
      shares = np.eye(BEAMS)[0]
    elif np.isneginf(LOGS[user]).all():
      shares = np.full(BEAMS, 1 / BEAMS)
    else:
      shares = special.softmax(LOGS[user] / settings.beam_temperature)
    for beam, share in enumerate(shares):
      difference = VECTORS.astype(np.float64) - QUERIES[user, beam]
      distance = np.linalg.norm(difference, axis=1)
      near = (distance - distance.min()) / (distance.max() - distance.min())
      kernel = special.softmax(-near / settings.item_temperature)
      if EXACT[user, beam] >= 0:
        title = GROUPS == EXACT[user, beam]
        kernel = (1 - settings.rest) * title + settings.rest * kernel
      found[user] += share * kernel
  return found


@pytest.mark.parametrize("settings", SETTINGS)
def test_scores_are_the_mixtures_logarithm(settings):
  ranker = _ranker(_mesh((1, 1, 1)), settings)
  queries = ranker.queries(slice(0, USERS))
  found = np.array(all_beams.mixture(queries, ranker.items()))
  want = np.log(_slow(settings))
  # But for a constant of each user.
  found -= special.logsumexp(found, axis=1, keepdims=True)
  want -= special.logsumexp(want, axis=1, keepdims=True)
  np.testing.assert_allclose(found, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scores", [1 << 21, 24])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_ranks_and_lists_are_those_of_a_stable_sort(monkeypatch, scores, sizes):
  """One block of items, and many; on one device, and on eight."""
  monkeypatch.setattr(engine, "_BLOCK_SCORES", {"cpu": scores})
  monkeypatch.setattr(engine, "_ENOUGH", 4)
  mesh = _mesh(sizes)
  ranks_of = engine.Ranks(TARGETS, ITEMS, mesh, most_users=8, groups=GROUPS)
  for settings in SETTINGS:
    # Of equal titles the first: they are equal here, to the bit.
    slow = _slow(settings)[:, GROUPS]
    ranker = _ranker(mesh, settings)
    want = published.ranks(-slow, TITLES, TARGETS, "best")
    np.testing.assert_array_equal(ranks_of(ranker), want)
    _, items = engine.lists(ranker, USERS, ITEMS, mesh, k=20, most_users=8)
    order = np.argsort(-slow, axis=1, kind="stable")[:, :20]
    np.testing.assert_array_equal(items, order)


def test_the_first_beam_alone_is_ordered_by_its_distance():
  mesh = _mesh((1, 1, 1))
  ranks_of = engine.Ranks(TARGETS, ITEMS, mesh, most_users=8, groups=GROUPS)
  found = ranks_of(_ranker(mesh, all_beams_choice.GRID[0]))
  difference = VECTORS[None].astype(np.float64) - QUERIES[:, :1]
  distance = np.linalg.norm(difference, axis=2)
  want = published.ranks(distance, TITLES, TARGETS, "best")
  np.testing.assert_array_equal(found, want)


def test_who_chooses_is_never_worse_off_than_by_the_first_beam():
  mesh, owners = _mesh((1, 1, 1)), np.arange(USERS)
  table = all_beams.table(VECTORS, GROUPS, mesh)
  beams = all_beams.measure(
    table, QUERIES, EXACT, LOGS, all_beams_choice.ITEM_TEMPERATURES
  )
  ranks_of = engine.Ranks(TARGETS, ITEMS, mesh, most_users=8, groups=GROUPS)
  choice = all_beams_choice.choose(table, beams, ranks_of, owners, 0)
  assert choice.tried == len(all_beams_choice.GRID)
  assert choice.ndcg >= choice.first_beam
  assert choice.held_out == metrics.ndcg(choice.ranks, 20)
  # Targets that the second beam alone names.
  exact = np.where(np.arange(BEAMS) == 1, GROUPS[TARGETS][:, None], EXACT)
  named = np.where((exact >= 0)[..., None], VECTORS[exact], QUERIES)
  beams = all_beams.measure(
    table,
    named,
    exact,
    np.log(np.array([[0.2, 0.7, 0.1]] * USERS)),
    all_beams_choice.ITEM_TEMPERATURES,
  )
  choice = all_beams_choice.choose(table, beams, ranks_of, owners, 0)
  assert choice.settings.beam_temperature > 0
  assert choice.ndcg > choice.first_beam


def test_equal_titles_are_one_beam():
  found = beam_texts.merged(
    [["a", "b", "a"], ["c"]], [[np.log(0.2), np.log(0.3), np.log(0.1)], [0.0]]
  )
  assert found.texts == [["a", "b"], ["c"]]
  np.testing.assert_allclose(np.exp(found.logs), [[0.3, 0.3], [1.0, 0.0]])


def test_beams_without_scores_count_by_their_order():
  logs = beam_texts.from_order([3, 1])
  np.testing.assert_allclose(np.exp(logs[0]), [1, 1 / 2, 1 / 3])
  assert logs[1] == [0.0]


@pytest.mark.parametrize("penalty", [0.0, 1.0, 0.6])
@pytest.mark.parametrize("prompts", [None, np.array([7, 9])])
def test_scores_are_divided_by_the_norm_that_decoding_has(penalty, prompts):
  """Of two beams the second is as long as can be, and so without EOS."""
  generate = common.get_config()
  generate.generate.max_new_tokens = 5
  generate.generate.length_penalty = penalty
  section = config_lib.from_config_dict(generate).generate
  norms = stepping.length_norms(2, 5, penalty, prompts)
  want = [[-3.0, -8.0], [-2.5, -9.0]]
  scores = [
    # EOS is the third token, of step 2; the last token is of step 4.
    [row[0] / norms.ended[n, 2], row[1] / norms.running[n, 4]]
    for n, row in enumerate(want)
  ]
  found = beam_texts.from_scores(scores, [[2, 5], [2, 5]], prompts, section)
  np.testing.assert_allclose(found, want, rtol=1e-6)
