"""Most-Pop and ItemKNN: numpy oracles, and published values on real data."""

import gzip

import numpy as np
import pytest

from bigrec_jax.cf import item_knn, popularity
from bigrec_jax.devices import sharding
from bigrec_jax.rankers import cf as cf_rankers, engine
from bigrec_jax.results import metrics

# HR@5, NDCG@5, HR@10, NDCG@10, HR@20, NDCG@20: the row "PopRec" of
# RUCAIBox/CIKM2020-S3Rec (all interactions are counted, seen items masked)
# and the same without the held-out interactions, ties averaged
# (docs/baselines.md).
PUBLISHED = {
  "Beauty": (0.0080, 0.0044, 0.0152, 0.0068, 0.0217, 0.0084),
  "Toys_and_Games": (0.0066, 0.0046, 0.0113, 0.0061, 0.0164, 0.0073),
}
LEAK_FREE = {
  "Beauty": (0.0081, 0.0044, 0.0120, 0.0056, 0.0204, 0.0076),
  "Toys_and_Games": (0.0056, 0.0038, 0.0090, 0.0049, 0.0134, 0.0060),
}


def _users(path):
  with gzip.open(path, "rt") as file:
    return [[int(x) - 1 for x in line.split()[1:]] for line in file]


def _values(ranks):
  return tuple(
    round(metric(ranks, k), 4)
    for k in (5, 10, 20)
    for metric in (metrics.hit_rate, metrics.ndcg)
  )


@pytest.mark.parametrize("name", PUBLISHED)
def test_popularity_equals_the_published_values(shared_data, name):
  users = _users(shared_data / "amazon-2014-loo" / f"{name}.txt.gz")
  counts = np.bincount(np.concatenate(users))
  targets = np.array([items[-1] for items in users], np.int32)
  seen = np.full((len(users), max(map(len, users))), -1, np.int32)
  for row, items in zip(seen, users, strict=True):
    kept = list(set(items[:-1]) - {items[-1]})
    row[: len(kept)] = kept
  ranks_of = engine.Ranks(
    targets,
    len(counts),
    sharding.single_device_mesh(),
    most_users=1024,
    seen=seen,
  )
  fitted = popularity.fit(counts, len(users))
  ranks = ranks_of(cf_rankers.Factorised(fitted))
  assert _values(ranks) == PUBLISHED[name]


def test_more_interactions_than_float32_counts_are_refused():
  with pytest.raises(ValueError, match="16777216|2\\*\\*24"):
    popularity.fit(np.array([1, 2**24 + 1]), 3)


def test_item_knn_equals_its_formula(monkeypatch):
  monkeypatch.setattr(item_knn, "_CHUNK", 5)
  rng = np.random.default_rng(0)
  users, items, k, decay = 17, 13, 4, 0.5
  had = rng.random((users, items)) < 0.3
  pairs = np.argwhere(had).astype(np.int64)
  model = item_knn.fit(pairs, items, k, decay)
  count = had.sum(axis=0)
  both = had.T.astype(float) @ had
  cosine = both / np.sqrt(np.maximum(np.outer(count, count), 1))
  np.fill_diagonal(cosine, 0)
  near = np.zeros_like(cosine)
  for row in range(items):
    order = np.argsort(-cosine[row].astype(np.float32), kind="stable")[:k]
    near[row, order] = cosine[row, order]
  history = np.array([[3, 7, 1], [5, -1, -1], [-1, -1, -1]], np.int32)
  expected = np.stack(
    [0.25 * near[3] + 0.5 * near[7] + near[1], near[5], np.zeros(items)]
  )
  np.testing.assert_allclose(model.scores(history), expected, rtol=1e-5)


@pytest.mark.parametrize("name", LEAK_FREE)
def test_leak_free_popularity_with_averaged_ties(shared_data, name):
  """The same by plain counting, since half ranks are not what we evaluate."""
  users = _users(shared_data / "amazon-2014-loo" / f"{name}.txt.gz")
  counts = np.bincount(
    np.concatenate([items[:-2] for items in users]),
    minlength=max(map(max, users)) + 1,
  )
  order = np.sort(counts)
  ranks = []
  for items in users:
    own = counts[items[-1]]
    seen = counts[list(set(items[:-1]) - {items[-1]})]
    above = len(order) - np.searchsorted(order, own, "right")
    tied = np.searchsorted(order, own, "right") - np.searchsorted(order, own)
    above -= (seen > own).sum()
    tied -= (seen == own).sum() + 1
    ranks.append(above + tied / 2)
  ranks = np.array(ranks)
  found = []
  for k in (5, 10, 20):
    hit = ranks < k
    found += [hit.mean(), (hit / np.log2(ranks + 2)).mean()]
  assert tuple(round(x, 4) for x in found) == LEAK_FREE[name]
