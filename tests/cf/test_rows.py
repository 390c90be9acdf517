import numpy as np

from bigrec_jax.cf import rows
from tests.cf import worlds


def _windows(user, items, first, width):
  return [
    (user, items[max(0, k - width) : k], items[k])
    for k in range(first, len(items))
  ]


def test_windows_end_with_the_target():
  data = worlds.examples("train", [(0, [5, 6], 7), (1, [], 3)], 4)
  made = rows.windows(data)
  assert made.items.tolist() == [[5, 6, 7, -1, -1], [3, -1, -1, -1, -1]]
  assert made.length.tolist() == [2, 0]
  assert made.targets.tolist() == [7, 3]


def test_sequences_join_what_continues_and_split_at_gaps():
  first = _windows(4, [1, 2, 3, 4, 5, 6, 7], 1, 4)
  second = _windows(2, [9, 8, 9, 8], 2, 4)
  gap = first[:2] + first[4:]
  data = worlds.examples("train", gap + second, 4)
  order = np.random.default_rng(0).permutation(len(data))
  found = [s.tolist() for s in rows.sequences(data.take(order))]
  assert found == [[9, 8, 9, 8], [1, 2, 3], [2, 3, 4, 5, 6, 7]]


def test_chains_predict_every_target_once_and_never_from_little():
  items = list(range(40))
  data = worlds.examples("train", _windows(0, items, 1, 6), 6)
  made = rows.chains(data, 6)
  seen = []
  for row, length, first in zip(
    made.items, made.length, made.first, strict=True
  ):
    assert (row[: length + 1] >= 0).all() and (row[length + 1 :] == -1).all()
    for place in range(first, length):
      seen.append(int(row[place + 1]))
      context = place + 1
      assert context >= 3 + 1 or context == row[place + 1]
  assert sorted(seen) == items[1:]


def test_seen_items_hold_history_and_earlier_splits_but_not_the_target():
  train = worlds.examples("train", [(7, [1, 2], 3), (8, [4], 5)], 3)
  valid = worlds.examples("valid", [(7, [2, 3], 6)], 3)
  test = worlds.examples(
    "test", [(8, [5, 9], 4), (7, [3, 6], 2), (1, [], 0)], 3
  )
  found = rows.seen_items(test, train, valid)
  assert [set(row[row >= 0].tolist()) for row in found] == [
    {5, 9},
    {1, 3, 6},
    set(),
  ]


def test_rows_of_unknown_users_do_not_share_what_they_saw():
  train = worlds.examples("train", [(-1, [1, 2], 3), (-1, [4], 5)], 3)
  test = worlds.examples("test", [(-1, [6], 7)], 3)
  assert rows.seen_items(test, train)[0].tolist() == [6]
  users = rows.interactions(train)[:, 0]
  assert len(np.unique(users)) == 2
