"""BM25 against the formula in plain Python, bm25s itself and a slow sort."""

import gzip
import itertools
import math

import bm25s
import jax
import numpy as np
import pytest

from bigrec_jax import config as config_lib
from bigrec_jax.rankers import bm25, bm25_choice, duplicates, engine

TITLES = (
  "Halo 3",
  "HALO 2: Halo, again!",
  "Age of Empires II",
  "Halo 3",
  "***",
  "Empires of the age of 3",
  "Pokémon_Gold  [GBC]",
  '"Halo 3"',
)
GROUPS = np.array([0, 1, 2, 0, 4, 5, 6, 0], np.int32)
QUERIES = ("halo", "", "age of of empires", "zelda", "Halo 3 pokémon_gold", "?")


def _mesh(*sizes):
  return jax.make_mesh(
    sizes,
    ("data", "fsdp", "tensor"),
    axis_types=(jax.sharding.AxisType.Auto,) * 3,
    devices=jax.devices()[: np.prod(sizes)],
  )


def _slow(titles, query, k1, b):
  """Returns the scores [I] of one query, token by token, in float64."""
  titles, (query,) = bm25.tokenize(titles), bm25.tokenize([query])
  average = sum(map(len, titles)) / len(titles)
  scores = []
  for title in titles:
    score = 0.0
    for token in query:
      if token not in title:
        continue
      having = sum(token in other for other in titles)
      idf = math.log(1 + (len(titles) - having + 0.5) / (having + 0.5))
      count = title.count(token)
      norm = k1 * (1 - b + b * len(title) / average)
      score += idf * count * (k1 + 1) / (count + norm)
    scores.append(score)
  return scores


def _slow_ranks(scores, targets, groups):
  ranks = []
  for row, target in zip(scores, targets, strict=True):
    order = np.argsort(-row, kind="stable")
    same = groups[order] == groups[target]
    ranks.append(int(np.flatnonzero(same)[0]))
  return ranks


def test_tokens_are_words_in_lower_case_of_one_character_or_more():
  assert bm25.tokenize(TITLES)[1:3] == [
    ["halo", "2", "halo", "again"],
    ["age", "of", "empires", "ii"],
  ]
  assert bm25.tokenize(["***", "", "Pokémon_Gold [GBC]"]) == [
    [],
    [],
    ["pokémon_gold", "gbc"],
  ]


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.0, 0.0), (2.0, 1.0)])
def test_scores_are_the_formula_s(k1, b):
  terms = bm25.Terms(TITLES)
  index = bm25.Index(terms, bm25.Settings(k1, b))
  found = index.scores(terms.counts(QUERIES))
  assert found.dtype == np.float32
  want = np.array([_slow(TITLES, query, k1, b) for query in QUERIES])
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
  # Items of the same tokens have the same bits; no token, no score.
  np.testing.assert_array_equal(found[:, 0], found[:, 3])
  assert not found[[1, 3, 5]].any() and not found[:, 4].any()


def test_scores_are_those_of_bm25s_on_real_titles(shared_data):
  path = shared_data / "bigrec-catalogues" / "game_id2name.txt.gz"
  with gzip.open(path, "rt", encoding="utf-8") as file:
    titles = [line.rstrip("\n").rpartition("\t")[0] for line in file][:4000]
  theirs = bm25s.BM25(k1=1.2, b=0.75, method="atire", idf_method="lucene")
  theirs.index(bm25.tokenize(titles), show_progress=False)
  queries = [f"{titles[n]} {titles[-n]}" for n in range(40)]
  want = np.stack([theirs.get_scores(q) for q in bm25.tokenize(queries)])
  terms = bm25.Terms(titles)
  index = bm25.Index(terms, bm25.Settings(1.2, 0.75))
  found = index.scores(terms.counts(queries))
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
  part = index.at(np.array([7, 3]))
  np.testing.assert_array_equal(
    part.scores(terms.counts(queries)), found[:, [7, 3]]
  )


def test_a_history_is_the_text_of_its_titles():
  terms = bm25.Terms(TITLES)
  history = np.array([[1, 2, 1], [4, -1, -1], [-1, -1, -1], [6, 0, -1]])
  texts = [" ".join(TITLES[i] for i in row if i >= 0) for row in history]
  np.testing.assert_array_equal(
    terms.history_counts(history).toarray(), terms.counts(texts).toarray()
  )


def test_titles_without_any_token_score_nothing():
  terms = bm25.Terms(["***", "", "?"])
  index = bm25.Index(terms, bm25.Settings(1.2, 0.75))
  found = index.scores(terms.counts(["anything", ""]))
  np.testing.assert_array_equal(found, np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2)])
def test_ranks_and_lists_are_a_stable_sort_s(shape):
  mesh = _mesh(*shape)
  history, targets, titles, groups = _world(np.random.default_rng(3))
  terms = bm25.Terms(titles)
  index = bm25.Index(terms, bm25.Settings(1.2, 0.75))
  queries = terms.history_counts(history)
  scores = index.scores(queries)
  ranks_of = engine.Ranks(targets, 90, mesh, most_users=16, groups=groups)
  found = ranks_of(index.ranker(queries))
  assert found.tolist() == _slow_ranks(scores, targets, groups)
  _, items = engine.lists(
    index.ranker(queries), 37, 90, mesh, k=7, most_users=16
  )
  want = np.argsort(-scores, axis=1, kind="stable")[:, :7]
  np.testing.assert_array_equal(items, want)


@pytest.mark.parametrize("rule", ["best", "last"])
def test_parameters_are_chosen_on_valid_and_used_on_test(rule):
  history, targets, titles, groups = _world(np.random.default_rng(5))
  splits = {
    "valid": (history[:20], targets[:20]),
    "test": (history[20:], targets[20:]),
  }
  config = config_lib.Bm25Config((0.5, 2.0), (0.0, 1.0))
  terms = bm25.Terms(titles)
  choice, index = bm25_choice.by_history(
    terms,
    groups,
    *splits["valid"],
    config,
    _mesh(1, 1, 1),
    most_users=8,
    duplicates=rule,
  )
  ranks = {
    split: engine.Ranks(
      duplicates.targets_by(rule, after, groups),
      len(titles),
      _mesh(1, 1, 1),
      most_users=8,
      groups=duplicates.groups_by(rule, groups),
    )(index.ranker(terms.history_counts(before)))
    for split, (before, after) in splits.items()
  }
  last = {title: row for row, title in enumerate(titles)}
  want = {}
  for k1, b in itertools.product(config.k1, config.b):
    index = bm25.Index(terms, bm25.Settings(k1, b))
    for split, (before, after) in splits.items():
      scores = index.scores(terms.history_counts(before))
      if rule == "last":
        after = [last[titles[row]] for row in after]
      rows = groups if rule == "best" else np.arange(90)
      want[split, k1, b] = np.array(_slow_ranks(scores, after, rows))
  gains = {
    key[1:]: np.mean(np.where(ranks < 20, 1 / np.log2(ranks + 2.0), 0.0))
    for key, ranks in want.items()
    if key[0] == "valid"
  }
  best = max(gains, key=gains.get)
  assert choice.to_json() == {
    "k1": best[0],
    "b": best[1],
    "tried": 4,
    "valid_ndcg@20": pytest.approx(gains[best]),
  }
  for split in splits:
    np.testing.assert_array_equal(ranks[split], want[(split, *best)])


def _world(rng):
  """Returns histories [37, 3], targets, 90 titles of few words, groups."""
  words = [f"w{n}" for n in range(12)]
  titles = [
    " ".join(rng.choice(words, size=rng.integers(0, 4))) for _ in range(90)
  ]
  first = {}
  groups = np.array(
    [first.setdefault(title, row) for row, title in enumerate(titles)], np.int32
  )
  history = rng.integers(-1, 90, size=(37, 3)).astype(np.int32)
  targets = rng.integers(0, 90, size=37).astype(np.int32)
  return history, targets, titles, groups


def test_a_large_catalogue_is_chosen_on_by_the_first_users_alone(monkeypatch):
  history, targets, titles, groups = _world(np.random.default_rng(6))
  config = config_lib.Bm25Config((0.5, 2.0), (0.0, 1.0))
  options = dict(most_users=8, duplicates="best")

  def chosen(count):
    return bm25_choice.by_history(
      bm25.Terms(titles),
      groups,
      history[:count],
      targets[:count],
      config,
      _mesh(1, 1, 1),
      **options,
    )[0]

  first = chosen(11)
  monkeypatch.setattr(bm25_choice, "_MOST_SCORES", 11 * len(titles))
  assert chosen(20) == first
  assert bm25_choice.users_to_choose_by(5, 10**9) == 1
