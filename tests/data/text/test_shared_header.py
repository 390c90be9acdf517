"""Headers found, taken out of examples, and put back."""

import numpy as np
import pytest

from bigrec_jax.data.text import encoding, packing, pipeline, shared_header
from tests.data.text.test_pipeline import (  # noqa: F401
  _config,
  _expected,
  _sequences,
  _stream,
  world,
)


class Encoded(list):
  """Stands for encoding.EncodedExamples."""

  def get(self, numbers):
    return [self[n] for n in numbers]


def _example(tokens, first_label=1):
  return encoding.Encoded(np.array(tokens, np.int32), first_label, False)


BEGINNING = list(range(1, 21))


def test_the_header_is_the_longest_common_beginning():
  examples = Encoded(_example([*BEGINNING, n, 7, 8]) for n in (31, 32, 33))
  header = shared_header.find(examples)
  assert header.tokens.tolist() == BEGINNING
  assert header.mask.tolist() == [1] * 20
  assert header.length == 19
  own = header.own_part(examples[1])
  # The last common token is predicted once, and predicts 32 itself.
  assert own.tokens.tolist() == [20, 32, 7, 8]
  assert own.first_label == 1
  assert header.own_part(_example([*BEGINNING[:-1], 5, 5])) is None
  assert header.own_part(_example(BEGINNING[:-1])) is None
  assert header.own_part(_example([*BEGINNING, 5], 2)) is None


def test_the_header_ends_before_the_first_label_of_answers():
  texts = [[*BEGINNING, 9, 9, n] for n in (31, 32)]
  examples = Encoded(_example(t, first_label=18) for t in texts)
  header = shared_header.find(examples)
  assert header.tokens.tolist() == BEGINNING[:18]
  assert header.mask.tolist() == [0] * 18
  own = header.own_part(examples[0])
  assert own.tokens.tolist() == [18, 19, 20, 9, 9, 31]
  assert own.first_label == 1
  assert header.own_part(_example(texts[0], first_label=17)) is None
  assert header.own_part(_example(texts[0], first_label=21)).first_label == 4


def test_what_is_short_or_not_common_is_no_header():
  assert shared_header.find(Encoded()) is None
  different = Encoded(_example([n, *BEGINNING]) for n in (31, 32))
  assert shared_header.find(different) is None
  short = Encoded(_example([*BEGINNING[:16], n]) for n in (31, 32))
  assert shared_header.find(short) is None
  cut = Encoded([_example([*BEGINNING, 5]), _example(BEGINNING[:9])])
  assert shared_header.find(cut) is None


def test_the_sample_is_spread_over_the_split(monkeypatch):
  monkeypatch.setattr(shared_header, "_SAMPLE", 3)
  # 0, 3 and 6 are looked at; 7 begins otherwise and is no reason to stop.
  examples = Encoded(_example([*BEGINNING, n]) for n in range(31, 38))
  examples.append(_example([99, 98, 97]))
  header = shared_header.find(examples)
  assert header.tokens.tolist() == BEGINNING
  assert header.own_part(examples[7]) is None


@pytest.fixture
def short_headers(monkeypatch):
  """Texts without input have another preamble: little is common to all."""
  monkeypatch.setattr(shared_header, "LEAST", 2)


def _with_header(step):
  """Returns the micro-batches with the header written into every example."""
  found = []
  for batch in step:
    lengths = batch["segment_ids"].max(axis=1)
    for row, count in enumerate(lengths):
      for segment in range(1, count + 1):
        at = batch["segment_ids"][row] == segment
        header = batch.get("header", np.zeros(1, np.int32))[:-1]
        positions = batch["positions"][row, at]
        assert positions.tolist() == list(
          range(len(header), len(header) + at.sum())
        )
        found.append((*header.tolist(), *batch["tokens"][row, at].tolist()))
  return sorted(found)


@pytest.mark.parametrize("packing_on", [True, False])
@pytest.mark.usefixtures("short_headers")
def test_header_and_own_parts_are_the_examples(world, packing_on):  # noqa: F811
  stream = _stream(world, share_header=True, packing=packing_on, num_epochs=1)
  plain = _stream(world, packing=packing_on, num_epochs=1)
  assert stream.header.length >= 2
  slots = 0
  for n, step in enumerate(stream):
    numbers = range(5 * n, min(5 * n + 5, 23))
    assert _with_header(step) == _expected(world, numbers)
    slots += sum(batch["tokens"].size for batch in step)
    next(plain)
  assert stream.tokens == plain.tokens
  assert stream.header_tokens == 23 * stream.header.length
  assert slots == stream.slots <= plain.slots
  own = stream.tokens - stream.header_tokens
  assert stream.utilisation == own / slots


def test_an_example_that_begins_otherwise_goes_apart(world, monkeypatch):  # noqa: F811
  # Of the 23 examples 0, 8 and 16 are looked at; 3 has another instruction.
  monkeypatch.setattr(shared_header, "_SAMPLE", 3)
  stream = _stream(world, share_header=True, num_epochs=1)
  others = [
    n
    for n, example in enumerate(stream.encoded.get(range(5)))
    if stream.header.own_part(example) is None
  ]
  assert 3 in others and len(others) < 5
  step = next(stream)
  apart = [batch for batch in step if "header" not in batch]
  assert step[-len(apart) :] == apart
  assert _sequences(apart) == _expected(world, others)
  assert _with_header(step) == _expected(world, range(5))


@pytest.mark.usefixtures("short_headers")
def test_shards_hold_the_whole_header(world):  # noqa: F811
  parts = [
    next(_stream(world, rows=4, shards=(i, 2), share_header=True))
    for i in range(2)
  ]
  for one, other in zip(*parts, strict=True):
    assert one["tokens"].shape[0] == other["tokens"].shape[0] == 2
    for key in packing.ROWLESS:
      np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.usefixtures("short_headers")
def test_eval_batches_share_their_own_header(world):  # noqa: F811
  batches = pipeline.eval_batches(
    *world, _config(), rows=2, batch_size=8, share_header=True
  )
  for _ in range(2):
    assert [_with_header(group) for group in batches] == [
      _expected(world, range(at, min(at + 8, 23))) for at in (0, 8, 16)
    ]


@pytest.mark.usefixtures("short_headers")
def test_resuming_keeps_the_count_of_tokens(world):  # noqa: F811
  stream = _stream(world, share_header=True)
  next(stream), next(stream)
  resumed = _stream(world, share_header=True)
  resumed.set_state(stream.get_state())
  assert resumed.get_state() == stream.get_state()
  assert resumed.utilisation == stream.utilisation
