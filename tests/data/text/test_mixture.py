"""Several data sets as one source: which samples each epoch takes."""

import collections

import numpy as np
import pytest

from bigrec_jax import config as config_lib, errors
from bigrec_jax.data.text import mixture, pipeline, source as source_lib
from bigrec_jax.testing import store
from configs import common

SIZES, WEIGHTS, EPOCHS = (7, 10, 3), (1.0, 0.4, 2.5), 6


class _Words:
  """Samples that read as `<set> <number>`."""

  split = "train"

  def __init__(self, name, size):
    self._name, self._size = name, size
    self.fingerprints = (name,)

  def __len__(self):
    return self._size

  def text(self, n):
    assert 0 <= n < self._size
    return source_lib.Text(f"{self._name} ", str(n), f"{self._name} ")

  def name(self, n):
    return f"train row {n}"

  def content(self, n):
    return {"output": str(n)}


def _mixture(seed=0, weights=WEIGHTS):
  sources = [
    _Words(name, size) for name, size in zip("abc", SIZES, strict=True)
  ]
  return mixture.of(sources, weights, batch_size=4, seed=seed)


def _epoch(mixed, epoch):
  which, numbers = mixed.taken(epoch, np.arange(len(mixed)))
  return [mixed.text(n).training for n in (numbers * 3 + which).tolist()]


def test_epochs_walk_through_each_set_by_its_weight():
  mixed = _mixture()
  # Half of 7.5 is rounded to even.
  assert mixed.shares.tolist() == [7, 4, 8] and len(mixed) == 19
  given = collections.Counter()
  for epoch in range(EPOCHS):
    texts = _epoch(mixed, epoch)
    sets = collections.Counter(text[0] for text in texts)
    assert sets == {"a": 7, "b": 4, "c": 8}
    given.update(texts)
    # Of one set nothing is given twice more often than anything else.
    for name, size in zip("abc", SIZES, strict=True):
      counts = [given[f"{name} {n}"] for n in range(size)]
      assert max(counts) - min(counts) <= 1
  assert given["a 0"] == EPOCHS
  assert sum(given[f"b {n}"] for n in range(10)) == 4 * EPOCHS


def test_places_in_any_order_and_seeds():
  mixed = _mixture()
  places = np.array([18, 0, 7, 11, 10])
  for some, whole in zip(
    mixed.taken(3, places), mixed.taken(3, np.arange(19)), strict=True
  ):
    np.testing.assert_array_equal(some, whole[places])
  assert _epoch(mixed, 1) == _epoch(_mixture(), 1)
  assert _epoch(mixed, 1) != _epoch(_mixture(seed=1), 1)
  assert mixed.fingerprints == ("a", "1.0", "b", "0.4", "c", "2.5")
  assert mixed.fingerprints != _mixture(weights=(1.0, 0.5, 2.5)).fingerprints


def test_names_and_texts_are_those_of_their_set():
  mixed = _mixture()
  assert [mixed.name(n) for n in (18, 19)] == [
    "train row 6",
    "train row 6 of set 2",
  ]
  assert mixed.content(8) == {"output": "2"}
  assert mixed.text(21).training == "a 0"  # All again.
  assert isinstance(mixed, source_lib.Scheduled)


class _Twice(_Words):
  """Samples with a second text each, of odd steps."""

  def text(self, n):
    text = super().text(n % len(self))
    return text._replace(answer=f"{text.answer}!") if n >= len(self) else text

  def at_step(self, step, num_steps, numbers):
    assert num_steps == 9
    return [n + step % 2 * len(self) for n in numbers]


def test_texts_of_a_step_are_those_of_their_set():
  mixed = mixture.of([_Words("a", 2), _Twice("b", 3)], [1.0, 1.0], 5, 0)
  for step in (2, 3):
    read = [mixed.text(n).training for n in mixed.at_step(step, 9, range(5))]
    end = "!" if step % 2 else ""
    assert sorted(read) == ["a 0", "a 1", *(f"b {n}{end}" for n in range(3))]


def test_one_set_is_no_mixture():
  alone = _Words("a", 3)
  assert mixture.of([alone], [1.0], 4, 0) is alone


def test_streams_take_each_epochs_own_and_go_on(tmp_path):
  tokenizer = store.tokenizer(tmp_path)
  values = common.get_config()
  values.train.update(
    {"batch_size": 4, "num_epochs": 3, "max_length": 16, "packing": False}
  )
  train = config_lib.from_config_dict(values).train

  def stream():
    return pipeline.TrainStream(_mixture(), tokenizer, train, rows=2, seed=0)

  def read(batches):
    return [
      tokenizer.decode(row[row != tokenizer.pad_id].tolist())
      for batch in batches
      for row in batch["tokens"]
      if (row != tokenizer.pad_id).any()
    ]

  whole = stream()
  assert whole.steps_per_epoch == 5 and whole.num_steps == 15
  steps = list(whole)
  for epoch in range(3):
    own = [t for step in steps[5 * epoch : 5 * epoch + 5] for t in read(step)]
    assert sorted(own) == sorted(_epoch(_mixture(), epoch))
  first = stream()
  for _ in range(7):
    next(first)
  resumed = stream()
  resumed.set_state(first.get_state())
  for ours, theirs in zip(resumed, steps[7:], strict=True):
    assert read(ours) == read(theirs)


@pytest.mark.parametrize("entry", ["runs/a:0", "runs/a:much", "a:nan", "a:"])
def test_weights_are_checked(entry):
  values = common.get_config()
  values.train.also = (entry,)
  with pytest.raises(errors.UserError, match="how often an epoch goes"):
    config_lib.from_config_dict(values)
  values.train.also = ("runs/a:0.5", "runs/b")
  mixed = config_lib.from_config_dict(values).train.mixed
  assert mixed == [("runs/a", 0.5), ("runs/b", 1.0)]
