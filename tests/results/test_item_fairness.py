"""Shares of groups by hand and in loops, and the file of them."""

import dataclasses
import json

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.data.prepared import catalogue as catalogue_lib, item_groups
from bigrec_jax.results import (
  fairness_sections,
  item_fairness,
  list_sections,
  run_data,
)

# Items 0 to 3: a; a and b; b; none.
MEMBERS = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], bool)


def _row(lists, history, members=MEMBERS, groups=("a", "b")):
  had = item_fairness.counts(np.array(history), members)
  about = "most_pop", "category", groups, np.array(lists), had
  return item_fairness.row(*about, members, samples=200, seed=0)


def test_unfairness_by_hand():
  """Histories: a twice, b once; lists: a once, b three times."""
  row = _row([[2, 1], [2, 3]], [[0, -1], [1, -1]])
  assert row.shares == {"a": 0.25, "b": 0.75}
  # GU of a is 1/4 - 2/3, of b the opposite.
  assert row.mgu == pytest.approx(5 / 12)
  assert row.dgu == pytest.approx(10 / 12)
  assert (row.ranker, row.grouping, row.k) == ("most_pop", "category", 2)


def test_lists_like_histories_are_fair():
  row = _row([[0, 2], [1, 3]], [[0, 2], [1, 3]])
  assert (row.mgu, row.dgu) == (0, 0)
  assert row.ci95 == {"mgu": [0, 0], "dgu": [0, 0]}


def test_rows_equal_loops_over_users_and_draws():
  rng = np.random.default_rng(2)
  members = rng.random((30, 4)) < 0.4
  history = rng.integers(-1, 30, (20, 5))
  lists = rng.integers(0, 30, (20, 6))
  lists[0, 4:] = -1
  groups = list("abcd")

  def share(items):
    found = [0] * 4
    for own in items:
      for item in own:
        for group in range(4):
          found[group] += item >= 0 and bool(members[item, group])
    return [n / sum(found) for n in found]

  def both(users):
    before, after = share(history[users]), share(lists[users])
    gaps = [b - a for a, b in zip(before, after, strict=True)]
    return np.mean(np.abs(gaps)), max(gaps) - min(gaps)

  row = _row(lists, history, members, groups)
  assert (row.mgu, row.dgu) == pytest.approx(both(np.arange(20)))
  assert list(row.shares.values()) == pytest.approx(share(lists))
  draw = np.random.default_rng(0)
  drawn = [both(draw.integers(0, 20, 20)) for _ in range(200)]
  expected = np.percentile(np.array(drawn), [2.5, 97.5], axis=0)
  np.testing.assert_allclose(row.ci95["mgu"], expected[:, 0], atol=1e-12)
  np.testing.assert_allclose(row.ci95["dgu"], expected[:, 1], atol=1e-12)


def test_fifths_by_popularity_keep_equal_counts_together():
  counts = np.array([9, 0, 0, 0, 4, 5, 6, 4, 8, 7])
  found = item_groups.by_popularity(counts)
  # Fewer have: 9, 0, 0, 0, 3, 5, 6, 3, 8, 7 of ten items.
  assert found.members.argmax(axis=1).tolist() == [4, 0, 0, 0, 1, 2, 3, 1, 4, 3]
  assert np.all(found.members.sum(axis=1) == 1)


CATALOGUE = catalogue_lib.Catalogue(
  ("1", "2", "9"), ("A", "B", "C"), np.zeros(3, int)
)
FILES = {
  "movies.dat": "1::A (1995)::Drama|War\n2::B::(no genres listed)\n",
  "movies.csv": 'movieId,title,genres\n1,"A, The",Drama|War\n3,D,Film-Noir\n',
  "groups.json": json.dumps({"1": ["Drama", "War"], "2": ""}),
  "text.json": json.dumps({"1": "Drama|War", "7": "Other"}),
}


@pytest.mark.parametrize("name", FILES)
def test_groups_of_a_file(name, tmp_path):
  path = tmp_path / name
  path.write_text(FILES[name])
  found = item_groups.of_file(str(path), CATALOGUE)
  assert list(found.groups) == ["Drama", "War"]
  assert found.members.tolist() == [[1, 1], [0, 0], [0, 0]]


@pytest.mark.parametrize(
  "name, content, message",
  [
    ("a.json", '{"1": 3}', "1: 3 found, a list"),
    ("a.json", '{"8": "x"}', "no group of the catalogue's items"),
    ("a.dat", "1::A\n", "row 1: 2 fields found, id, title and genres"),
  ],
)
def test_what_is_wrong_with_a_file_of_groups(name, content, message, tmp_path):
  path = tmp_path / name
  path.write_text(content)
  with pytest.raises(errors.UserError, match=message):
    item_groups.of_file(str(path), CATALOGUE)


def test_the_file_comes_back_and_is_shown(tmp_path):
  row = _row([[2, 1], [2, 3]], [[0, -1], [1, -1]])
  histories = {"category": {"a": 2 / 3, "b": 1 / 3}}
  values = {"coverage": 0.5, "gini": 0.25, "novelty": 1.5}
  quality = (item_fairness.Quality("most_pop", 10, values),)
  file = item_fairness.FairnessFile("test", 2, histories, (row,), quality)
  path = tmp_path / "item_fairness.json"
  item_fairness.write(path, file)
  found = item_fairness.read(path)
  low, high = row.ci95["mgu"]
  assert found.rows[0].ci95["mgu"] == (low, high)
  assert found.histories == histories and found.quality[0].values == values
  html = fairness_sections.of_items(found)
  assert "Most popular" in html and "MGU@2" in html and "0.4167" in html
  assert "Not here" in fairness_sections.of_items(None)
  data = run_data.load(tmp_path)
  assert "item_fairness=10" in list_sections.beyond_accuracy(data)
  data = dataclasses.replace(data, item_fairness=found)
  html = list_sections.beyond_accuracy(data)
  for word in ("Most popular", "0.2500", "1.5000", "The first 10 items"):
    assert word in html, html
