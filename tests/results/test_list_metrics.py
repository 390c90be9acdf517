"""Metrics of lists against figures worked out by hand and a slow copy."""

import itertools

import numpy as np
import pytest
from scipy import sparse

from bigrec_jax.results import list_metrics

# Titles of items 0..4 as tokens; item 3 repeats the title of item 1.
TOKENS = [{0, 1}, {1, 2}, {3}, {1, 2}, set()]
GROUPS = np.array([0, 1, 2, 1, 4], np.int32)


def _matrix(tokens, width=4):
  dense = np.zeros((len(tokens), width), np.float32)
  for row, own in enumerate(tokens):
    dense[row, sorted(own)] = 1.0
  return sparse.csr_array(dense)


def test_a_target_is_found_by_its_title():
  lists = np.array([[2, 0, -1], [0, 1, 2], [1, -1, -1], [-1, -1, -1]])
  targets = np.array([0, 3, 2, 4])
  found = list_metrics.target_ranks(lists, targets, GROUPS)
  assert found.tolist() == [1, 1, 3, 3]


def test_diversity_by_hand():
  lists = np.array([[0, 1, 2], [0, 1, -1], [2, 4, -1], [2, -1, -1]])
  found = list_metrics.diversity(lists, _matrix(TOKENS))
  # {0, 1} and {1, 2} share one of three; the other two pairs share nothing.
  np.testing.assert_allclose(found[:3], [1 - 1 / 9, 1 - 1 / 3, 1.0])
  assert np.isnan(found[3])


def test_coverage_by_hand():
  lists = np.array([[2, -1], [1, 2], [0, 1], [0, 1]])
  history = np.array([[0, 1], [0, 2], [4, -1], [-1, -1]])
  found = list_metrics.coverage(lists, history, _matrix(TOKENS))
  np.testing.assert_allclose(found[:2], [0.0, 2 / 3])  # {1, 3} of {0, 1, 3}.
  assert np.isnan(found[2:]).all()


def test_equal_a_slow_copy():
  rng = np.random.default_rng(0)
  tokens = [
    set(rng.choice(12, size=rng.integers(0, 5), replace=False).tolist())
    for _ in range(30)
  ]
  lists = np.full((40, 6), -1)
  history = np.full((40, 4), -1)
  for row, before in zip(lists, history, strict=True):
    length, old = rng.integers(0, 7), rng.integers(0, 5)
    row[:length] = rng.choice(30, size=length, replace=False)
    before[:old] = rng.choice(30, size=old)
  matrix = _matrix(tokens, 12)
  diverse = list_metrics.diversity(lists, matrix)
  covered = list_metrics.coverage(lists, history, matrix)
  for n in range(len(lists)):
    items = [tokens[i] for i in lists[n] if i >= 0]
    pairs = [
      1 - (len(a & b) / len(a | b) if a | b else 0.0)
      for a, b in itertools.combinations(items, 2)
    ]
    assert diverse[n] == pytest.approx(
      np.mean(pairs) if pairs else np.nan, nan_ok=True
    )
    known = set().union(*(tokens[i] for i in history[n] if i >= 0))
    listed = set().union(*items)
    assert covered[n] == pytest.approx(
      len(known & listed) / len(known) if known else np.nan, nan_ok=True
    )
