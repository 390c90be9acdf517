"""Similarities by hand, and against slow loops over the definitions."""

import fractions

import numpy as np
import pytest

from bigrec_jax.tasks.fairness import similarity

F = fractions.Fraction


def _slow_serp(x, y):
  """The sum over matching pairs, term by term, in fractions."""
  if not y:
    return F(0)
  total = F(0)
  for i in range(len(x)):
    for j in range(len(y)):
      if x[i] == y[j]:
        total += len(x) - i + 1
  return total * F(1, 2) / ((len(y) + 1) * len(y))


def _slow_prag(x, y):
  """All pairs of places, looking titles up in y from its end."""
  if not x or not y:
    return F(0)
  if len(x) == 1:
    return F(x == y)

  def place(title):
    for k in range(len(y) - 1, -1, -1):
      if y[k] == title:
        return k
    return None

  kept = pairs = 0
  for i in range(len(x)):
    for j in range(i + 1, len(x)):
      pairs += 1
      first, second = place(x[i]), place(x[j])
      if first is None:
        continue
      if second is None or first < second:
        kept += 1
  return F(kept, pairs)


def _first_of_each(titles):
  return [t for n, t in enumerate(titles) if t not in titles[:n]]


def _slow_serp_normalised(x, y):
  x, y = _first_of_each(x), _first_of_each(y)
  n = max(len(x), len(y))
  best = sum(range(1, n + 1))
  own = sum(n - x.index(title) for title in x if title in y)
  return F(own, best) if n else F(0)


SLOW = {
  "iou": lambda x, y: (
    F(sum(t in y for t in _first_of_each(x)), len(_first_of_each(x + y)))
    if x + y
    else F(0)
  ),
  "serp_ms": _slow_serp,
  "prag": _slow_prag,
  "serp_ms_normalised": _slow_serp_normalised,
  "prag_normalised": lambda x, y: _slow_prag(
    _first_of_each(x), _first_of_each(y)
  ),
}


def test_all_measures_equal_slow_loops_on_random_lists():
  """Short and empty lists, repeats and all."""
  rng = np.random.default_rng(3)
  for _ in range(400):
    x, y = (
      [f"t{n}" for n in rng.integers(0, 9, rng.integers(0, 8))]
      for _ in range(2)
    )
    for name, slow in SLOW.items():
      found = similarity.MEASURES[name](x, y)
      assert found == pytest.approx(float(slow(x, y)), abs=1e-12), (name, x, y)


# Lists, then IoU, SERP-MS, PRAG and the normalised two, worked out by hand.
BY_HAND = [
  # 4 + 3 + 2 of 3 titles: 9 / 2 / 12; the paper's 3 + 2 + 1 of 6.
  ("abc", "abc", 1, 9 / 24, 1, 1, 1),
  # a at 0: 4. Pairs: ab (b is new: counts), ac (out of order), bc (b is new).
  ("abc", "cad", 2 / 4, (4 + 2) / 24, 1 / 3, (3 + 1) / 6, 1 / 3),
  ("abc", "def", 0, 0, 0, 0, 0),
  # The reverse: all are there, no pair is in order.
  ("abc", "cba", 1, 9 / 24, 0, 1, 0),
  # One title of two: its pair counts, since b is new to y.
  ("ab", "a", 1 / 2, 3 / 4, 1, 2 / 3, 1),
  # x of one title is all or nothing; its SERP-MS is 2 / 2 / 6.
  ("a", "ab", 1 / 2, 2 / 12, 0, 2 / 3, 0),
  ("a", "a", 1, 2 / 4, 1, 1, 1),
  # Repeats: the code counts both a of x, and calls no pair of equals ordered.
  ("aab", "ab", 1, (4 + 3 + 2) / 12, 2 / 3, 1, 1),
  ("", "ab", 0, 0, 0, 0, 0),
  ("ab", "", 0, 0, 0, 0, 0),
  ("", "", 0, 0, 0, 0, 0),
]


@pytest.mark.parametrize("x, y, expected", [(x, y, e) for x, y, *e in BY_HAND])
def test_measures_by_hand(x, y, expected):
  found = [measure(x, y) for measure in similarity.MEASURES.values()]
  assert found == pytest.approx(expected)


def test_equal_lists_have_the_value_that_the_formula_gives():
  titles = list(map(str, range(20)))
  found = similarity.serp_ms(titles, titles)
  assert found == pytest.approx(23 / 84)  # (K + 3) / (4 (K + 1)), .274
  for name in ("iou", "prag", "serp_ms_normalised", "prag_normalised"):
    assert similarity.MEASURES[name](titles, titles) == 1


def test_disparity_by_hand():
  """Means .2, .5 and .8: variance (.09 + 0 + .09) / 3."""
  found = similarity.disparity(np.array([0.2, 0.5, 0.8]))
  assert found["min"] == 0.2 and found["max"] == 0.8
  assert found["snsr"] == pytest.approx(0.6)
  assert found["snsv"] == pytest.approx(0.06**0.5)


def test_draws_are_of_whole_names():
  """Two values that are always equal are so in every draw."""
  rng = np.random.default_rng(1)
  own = rng.random(30)
  drawn = similarity.drawn_means(np.stack([own, own, 1 - own]), 500, 4)
  assert drawn.shape == (500, 3)
  np.testing.assert_allclose(drawn[:, 0], drawn[:, 1], rtol=1e-12)
  np.testing.assert_allclose(drawn[:, 0] + drawn[:, 2], 1, rtol=1e-12)
  assert drawn[:, 0].std() == pytest.approx(own.std() / 30**0.5, rel=0.15)
