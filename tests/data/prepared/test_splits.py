import numpy as np
import pytest

from bigrec_jax.data.formats import interactions
from bigrec_jax.data.prepared import splits


def make_log(seed: int = 0, users: int = 23) -> interactions.Interactions:
  """A log with users of 1..30 items whose rows are mixed and times tie."""
  rng = np.random.default_rng(seed)
  user = rng.permutation(
    np.repeat(np.arange(users), rng.integers(1, 31, users))
  )
  _, first, number = np.unique(user, return_index=True, return_inverse=True)
  user = np.argsort(np.argsort(first))[number]  # By first appearance.
  return interactions.Interactions(
    user.astype(np.int64),
    rng.integers(0, 17, len(user)).astype(np.int32),
    rng.integers(0, 9, len(user)),
    {str(n): f"t{n}" for n in range(17)},
  )


def naive(log, starts, longest):
  """Rows (user, history, target, time) in the order of the notebooks."""
  rows = []
  for user in range(log.user.max() + 1):
    places = [n for n in range(len(log)) if log.user[n] == user]
    places.sort(key=lambda n: log.timestamp[n])
    for i in range(starts(len(places), longest), len(places)):
      history = places[max(i - longest, 0) : i]
      rows.append(
        (
          user,
          [int(log.item[n]) for n in history],
          int(log.item[places[i]]),
          int(log.timestamp[places[i]]),
        )
      )
  return sorted(rows, key=lambda row: row[-1])


def listed(windows):
  columns = windows.columns(slice(None))
  return [
    (int(u), [int(n) for n in h if n >= 0], int(t), int(s))
    for u, h, t, s in zip(
      columns["user"],
      columns["history"],
      columns["target"],
      columns["timestamp"],
      strict=True,
    )
  ]


@pytest.mark.parametrize("longest", [3, 10])
@pytest.mark.parametrize(
  "rule, starts",
  [
    ("full", lambda n, h: h),
    ("tail", lambda n, h: min(h, n - 1)),
    ("every", lambda n, h: 1),
  ],
)
def test_chronological_equals_the_naive_loops(rule, starts, longest):
  log = make_log()
  windows = splits.chronological(splits.timeline(log), rule, longest)
  rows = naive(log, starts, longest)
  bounds = [0, int(len(rows) * 0.8), int(len(rows) * 0.9), len(rows)]
  for n, split in enumerate(splits.SPLITS):
    assert listed(windows[split]) == rows[bounds[n] : bounds[n + 1]], split


def test_histories_are_padded_at_the_right_with_minus_one():
  line = splits.timeline(make_log())
  windows = splits.chronological(line, "tail", 10)["train"]
  history = windows.columns(slice(None))["history"]
  assert history.dtype == np.int32
  known = history >= 0
  assert (known[:, :-1] >= known[:, 1:]).all()
  assert (~known).any()


def test_leave_one_out_takes_the_last_two_items_of_each_user():
  log = make_log()
  line = splits.timeline(log)
  windows = splits.leave_one_out(line, 50)
  for user in range(23):
    items = [
      int(log.item[n])
      for n in sorted(
        np.flatnonzero(log.user == user), key=lambda n: log.timestamp[n]
      )
    ]
    mine = {
      split: [(h, t) for u, h, t, _ in listed(windows[split]) if u == user]
      for split in splits.SPLITS
    }
    assert mine["test"] == [(items[:-1], items[-1])]
    if len(items) > 1:
      assert mine["valid"] == [(items[:-2], items[-2])]
    assert mine["train"] == [
      (items[:i], items[i]) for i in range(1, len(items) - 2)
    ]


def test_train_interactions_leave_out_all_later_targets():
  line = splits.timeline(make_log(seed=3))
  windows = splits.chronological(line, "tail", 4)
  known = splits.in_train(line, windows)
  assert known[windows["train"].targets].all()
  assert not known[windows["valid"].targets].any()
  assert not known[windows["test"].targets].any()
  last = line.timestamp[windows["train"].targets].max()
  assert (line.timestamp[known] <= last).all()
  targets = np.concatenate([part.targets for part in windows.values()])
  never = np.setdiff1d(np.arange(len(line)), targets)
  assert known[never].sum() == (line.timestamp[never] <= last).sum() > 0


@pytest.mark.parametrize("available, count", [(5001, 5000), (930, 100), (7, 7)])
def test_evaluation_rows_are_those_of_pandas(available, count):
  pandas = pytest.importorskip("pandas")
  frame = pandas.DataFrame({"row": range(available)})
  expected = frame.sample(n=count, random_state=42)["row"].to_numpy()
  found = splits.evaluation_rows(available, count, 42)
  np.testing.assert_array_equal(found, expected)


def test_evaluation_rows_are_all_in_order_where_there_are_too_few():
  for count in (-1, 12):
    np.testing.assert_array_equal(
      splits.evaluation_rows(11, count, 42), np.arange(11)
    )


def test_train_rows_are_shuffled_twice_with_one_seed():
  once = np.random.default_rng(5).permutation(97)[:13]
  twice = once[np.random.default_rng(5).permutation(13)]
  np.testing.assert_array_equal(splits.train_rows(97, 13, 5), twice)
  assert sorted(splits.train_rows(97, -1, 5)) == list(range(97))


@pytest.mark.torch
@pytest.mark.parametrize("count", [13, 1024, -1])
def test_train_rows_are_those_of_hugging_face_datasets(count):
  datasets = pytest.importorskip("datasets")
  data = datasets.Dataset.from_dict({"row": list(range(3001))})
  for seed in (0, 1, 2):
    sample = data.shuffle(seed=seed)
    if count > -1:
      sample = sample.select(range(count))
    expected = sample.shuffle(seed=seed)["row"]
    assert splits.train_rows(3001, count, seed).tolist() == list(expected)
