"""Groups of test users against a loop over them."""

import numpy as np

from bigrec_jax.data.prepared import examples as examples_lib
from bigrec_jax.results import segment_sections, segments


def _examples(rng, split, count, items):
  length = rng.integers(0, 6, count)
  history = rng.integers(0, items, (count, 5)).astype(np.int32)
  history[np.arange(5) >= length[:, None]] = -1
  target = rng.integers(0, items, count).astype(np.int32)
  zeros = np.zeros(count, np.int64)
  return examples_lib.Examples(
    split, np.arange(count), history, target, zeros, zeros
  )


def test_users_are_those_of_a_loop():
  rng = np.random.default_rng(0)
  train, test = (
    _examples(rng, s, n, 12) for s, n in (("train", 40), ("t", 60))
  )
  followed = set()
  for history, target in zip(train.history, train.target, strict=True):
    chain = [*history[history >= 0].tolist(), int(target)]
    followed |= set(zip(chain, chain[1:], strict=False))
  found = segments.users(test, train, 12)
  for n, (history, target) in enumerate(
    zip(test.history, test.target, strict=True)
  ):
    own = history[history >= 0].tolist()
    assert found.history_length[n] == len(own)
    known = bool(own) and (own[-1], int(target)) in followed
    assert found.known_transition[n] == known
  assert 0 < found.known_transition.mean() < 1


def test_groups_of_a_kind_share_all_users():
  rng = np.random.default_rng(1)
  counts = np.r_[0, 0, rng.integers(1, 50, 30)]
  target = rng.integers(0, 32, 200)
  popularity = counts[target]
  for groups in (
    segments.by_popularity(target, counts),
    segments.by_history(rng.integers(0, 14, 200)),
    segments.by_transition(rng.integers(0, 2, 200).astype(bool)),
  ):
    masks = np.stack([mask for _, mask in groups])
    assert (masks.sum(axis=0) == 1).all()
  cold, seen, popular = (m for _, m in segments.by_popularity(target, counts))
  assert (popularity[cold] == 0).all()
  assert popularity[popular].min() >= popularity[seen].max()
  assert len(set(target[popular].tolist())) <= 3  # A tenth of 32.


def test_hits_are_counted_once_under_all_that_hit():
  hits = {
    "bigrec": np.array([1, 1, 0, 0, 1], bool),
    "cf": np.array([0, 1, 0, 0, 1], bool),
    "most_pop": np.array([0, 0, 1, 0, 1], bool),
  }
  assert segment_sections._combinations(hits) == [
    ("text only", 1),
    ("CF only", 0),
    ("popularity only", 1),
    ("text and CF", 1),
    ("text and CF and popularity", 1),
    ("none of them", 1),
  ]
