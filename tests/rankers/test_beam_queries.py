"""Lists from several queries against a copy of their rule in plain Python."""

import jax
import numpy as np
import pytest

from bigrec_jax.rankers import beam_queries, bm25

_SETTINGS = bm25.Settings(1.2, 0.75)


def _mesh(*sizes):
  return jax.make_mesh(
    sizes,
    ("data", "fsdp", "tensor"),
    axis_types=(jax.sharding.AxisType.Auto,) * 3,
    devices=jax.devices()[: np.prod(sizes)],
  )


def _slow(found, k):
  """Returns a list in rounds: whose turn it is takes its best new match."""
  queries = len(found)
  taken, owed = [], 0
  for n, items in enumerate(found):
    owed += k // queries + (1 if n < k % queries else 0)
    for item in items:
      if owed and item not in taken:
        taken.append(item)
        owed -= 1
  for items in found:
    for item in items:
      if owed and item not in taken:
        taken.append(item)
        owed -= 1
  return taken


@pytest.mark.parametrize(
  ("found", "k", "want"),
  [
    # As many queries as items: one of each, repeats skipped.
    ([[1, 2], [1, 3], [4]], 3, [1, 3, 4]),
    # The first queries give what does not divide.
    ([[1, 2, 3], [4, 5]], 5, [1, 2, 3, 4, 5]),
    ([[1, 2, 3], [4, 5, 6]], 3, [1, 2, 4]),
    # Fewer items than queries.
    ([[1], [2], [3]], 2, [1, 2]),
    ([[1], [2], [3]], 1, [1]),
    # What a query lacks the next one gives; ...
    ([[1], [2, 3, 4, 5]], 4, [1, 2, 3, 4]),
    ([[], [2, 3], [4]], 2, [2, 3]),
    ([[], [], [4, 5]], 2, [4, 5]),
    # ... what lacks at the end comes from the first ones.
    ([[1, 2, 3, 4], [5]], 4, [1, 2, 5, 3]),
    ([[1], [1], [1]], 3, [1]),
    ([[], []], 2, []),
  ],
)
def test_merge_by_hand(found, k, want):
  assert beam_queries.merge(found, k) == want == _slow(found, k)


def test_merge_equals_the_slow_copy():
  rng = np.random.default_rng(0)
  for _ in range(300):
    queries, k = rng.integers(1, 7), int(rng.integers(1, 13))
    found = [
      rng.permutation(20)[: rng.integers(0, 14)].tolist()
      for _ in range(queries)
    ]
    assert beam_queries.merge(found, k) == _slow(found, k)
    # k matches of a query are enough.
    cut = [items[:k] for items in found]
    assert beam_queries.merge(cut, k) == _slow(found, k)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2)])
def test_matches_are_distinct_titles_that_share_a_token(shape):
  rng = np.random.default_rng(1)
  words = [f"w{n}" for n in range(30)]
  titles = [
    " ".join(rng.choice(words, size=rng.integers(0, 4))) for _ in range(70)
  ]
  first = {}
  groups = np.array(
    [first.setdefault(title, row) for row, title in enumerate(titles)], np.int32
  )
  texts = [" ".join(rng.choice(words, size=n % 5)) for n in range(25)]
  texts += ["nothing known", texts[3]]
  terms = bm25.Terms(titles)
  index = bm25.Index(terms, _SETTINGS)
  retrieve = beam_queries.Retriever(terms, groups, _mesh(*shape), 8)
  found = retrieve(index, texts, 6)
  scores = index.scores(terms.counts(texts))
  for row, text in zip(scores, texts, strict=True):
    want = [
      item
      for item in np.argsort(-row, kind="stable").tolist()
      if row[item] > 0 and groups[item] == item
    ]
    assert found[text] == want[:6]
  queries = [[texts[0], texts[4]], ["nothing known", ""]]
  lists = beam_queries.lists(found, queries, 6)
  merged = _slow([found[texts[0]], found[texts[4]]], 6)
  assert lists[0].tolist() == merged + [-1] * (6 - len(merged))
  assert lists[1].tolist() == [-1] * 6
