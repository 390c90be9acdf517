"""Optimizer steps: what is in them, in which order, and resuming."""

import collections
import dataclasses
import json

import numpy as np
import pytest

from bigrec_jax import config as config_lib, errors
from bigrec_jax.data.prepared import (
  catalogue as catalogue_lib,
  examples as examples_lib,
)
from bigrec_jax.data.text import (
  encoding,
  pipeline,
  prompts,
  source as source_lib,
  tokenization,
)
from bigrec_jax.tasks import next_title
from configs import common

NUM_EXAMPLES, NUM_ITEMS, BATCH = 23, 17, 5


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """(source, tokenizer) of 23 examples of 0-4 titles."""
  rng = np.random.default_rng(5)
  titles = tuple(f"Film {i} of " + "x" * (i % 7) for i in range(NUM_ITEMS))
  catalogue = catalogue_lib.Catalogue(
    tuple(map(str, range(NUM_ITEMS))), titles, np.ones(NUM_ITEMS, np.int64)
  )
  history = rng.integers(0, NUM_ITEMS, (NUM_EXAMPLES, 4)).astype(np.int32)
  kept = rng.integers(0, 5, NUM_EXAMPLES)
  history[np.arange(4) >= kept[:, None]] = -1
  columns = np.arange(NUM_EXAMPLES, dtype=np.int64)
  examples = examples_lib.Examples(
    "train",
    columns + 100,
    history,
    rng.integers(0, NUM_ITEMS, NUM_EXAMPLES).astype(np.int32),
    columns,
    columns,
    {3: ("Say one.", "")},
  )
  prompt = prompts.Prompt("consistent", "Say a film.", "Seen:")
  directory = tmp_path_factory.mktemp("tokenizer")
  source = next_title.Titles(examples, catalogue, prompt)
  tokenization.train_bpe(pipeline.training_texts(source), 400, directory)
  return source, tokenization.load_tokenizer(directory)


def _config(**changes):
  config = config_lib.from_config_dict(common.get_config()).train
  values = {
    "batch_size": BATCH,
    "num_epochs": 3,
    "max_length": 96,
    "length_buckets": (24, 48),
    "shuffle": False,
  }
  return dataclasses.replace(config, **(values | changes))


def _stream(
  world, *, rows=2, seed=0, share_header=False, shards=(0, 1), **changes
):
  return pipeline.TrainStream(
    *world,
    _config(**changes),
    rows=rows,
    seed=seed,
    share_header=share_header,
    shard_index=shards[0],
    shard_count=shards[1],
  )


def _sequences(step):
  """Returns the token sequences of the examples of a step, sorted."""
  found = []
  for batch in step:
    for tokens, segments in zip(
      batch["tokens"], batch["segment_ids"], strict=True
    ):
      for segment in range(1, segments.max() + 1):
        found.append(tuple(tokens[segments == segment].tolist()))
  return sorted(found)


def _expected(world, numbers, max_length=96):
  source, tokenizer = world
  texts = pipeline.training_texts(source)
  found = []
  for n in numbers:
    ids = tokenizer.encode(texts[n])[:max_length]
    found.append(tuple(ids + [2] if len(ids) < max_length else ids))
  return sorted(found)


def _equal(left, right):
  assert len(left) == len(right)
  for a, b in zip(left, right, strict=True):
    assert [x["tokens"].shape for x in a] == [x["tokens"].shape for x in b]
    for x, y in zip(a, b, strict=True):
      for key in x:
        np.testing.assert_array_equal(x[key], y[key])


@pytest.mark.parametrize("packing", [True, False])
def test_steps_hold_the_examples_in_file_order(world, packing):
  stream = _stream(world, packing=packing)
  assert (stream.steps_per_epoch, stream.num_steps) == (5, 15)
  steps = []
  for step in stream:
    steps.append(step)
    assert stream.at_epoch_end == (len(steps) % 5 == 0)
    assert stream.epoch == len(steps) // 5
  assert len(steps) == stream.step == 15
  for i, step in enumerate(steps):
    first = i % 5 * BATCH
    numbers = range(first, min(first + BATCH, NUM_EXAMPLES))
    assert _sequences(step) == _expected(world, numbers)
    lengths = {b["tokens"].shape[1] for b in step}
    assert lengths == {96} if packing else lengths <= {24, 48, 96}
    assert {b["tokens"].shape[0] for b in step} == {2}
  tokens = sum(len(s) for step in steps for s in _sequences(step))
  assert stream.tokens == tokens
  slots = sum(b["tokens"].size for step in steps for b in step)
  assert stream.utilisation == tokens / slots


def test_shuffle_gives_every_example_once_in_each_epoch(world):
  steps = list(_stream(world, shuffle=True, seed=4))
  everything = _expected(world, range(NUM_EXAMPLES))
  epochs = []
  for at in (0, 5, 10):
    epoch = [s for step in steps[at : at + 5] for s in _sequences(step)]
    assert sorted(epoch) == everything
    epochs.append([_sequences(step) for step in steps[at : at + 5]])
  assert epochs[0] != epochs[1] != epochs[2]
  _equal(steps, list(_stream(world, shuffle=True, seed=4)))
  other = [_sequences(s) for s in _stream(world, shuffle=True, seed=5)]
  assert other != [_sequences(s) for s in steps]


@pytest.mark.parametrize("done", [0, 3, 5, 12, 15])
def test_resuming_goes_on_with_exactly_the_same_steps(world, done):
  stream = _stream(world, shuffle=True)
  for _ in range(done):
    next(stream)
  state = json.loads(json.dumps(stream.get_state()))
  resumed = _stream(world, shuffle=True)
  next(resumed)  # Wherever it was before.
  resumed.set_state(state)
  assert (resumed.step, resumed.tokens) == (done, stream.tokens)
  rest = list(stream)
  assert len(rest) == 15 - done
  _equal(rest, list(resumed))
  assert resumed.get_state() == stream.get_state()


def test_state_of_another_order_is_refused(world):
  state = _stream(world, seed=1).get_state()
  with pytest.raises(errors.UserError, match="checkpoint: its data"):
    _stream(world, seed=2).set_state(state)


def test_tokens_made_anew_equal_kept_ones(world, monkeypatch):
  kept = list(_stream(world, shuffle=True))
  monkeypatch.setattr(encoding, "_CACHED_EXAMPLES", 0)
  monkeypatch.setattr(encoding, "_ENCODE_AT_ONCE", 2)
  _equal(kept, list(_stream(world, shuffle=True)))


def test_shards_of_all_processes_are_the_whole_step(world):
  whole = list(_stream(world, rows=4))
  parts = [list(_stream(world, rows=4, shards=(i, 2))) for i in range(2)]
  joined = [
    [
      {key: np.concatenate([a[key], b[key]]) for key in a}
      for a, b in zip(left, right, strict=True)
    ]
    for left, right in zip(*parts, strict=True)
  ]
  _equal(whole, joined)


@pytest.mark.parametrize("max_length", [96, 41])
@pytest.mark.parametrize("train_on_inputs", [True, False])
def test_labels_equal_those_of_the_published_rule(
  world, max_length, train_on_inputs
):
  source, tokenizer = world
  prompt = source.prompt

  def published(parts):
    """The rule of train.py on lists; -100 marks what is no label."""

    def tokenize(full, add_eos):
      ids = tokenizer.encode(full)[:max_length]
      if ids[-1] != tokenizer.eos_id and len(ids) < max_length and add_eos:
        ids.append(tokenizer.eos_id)
      return ids

    ids = tokenize(prompt.training_text(*parts), True)
    labels = list(ids)
    if not train_on_inputs:
      length = len(tokenize(prompt.prompt_text(*parts[:2]), False))
      labels = [-100] * length + labels[length:]
    return ids, labels

  encoder = encoding.Encoder(
    tokenizer, max_length=max_length, train_on_inputs=train_on_inputs
  )
  texts = [source.text(n) for n in range(len(source))]
  for n, encoded in enumerate(encoder.encode_batch(texts)):
    ids, labels = published(source.parts(n))
    assert encoded.tokens.tolist() == ids
    # The model predicts labels[1:], so the first token never counts.
    wanted = [label != -100 for label in labels[1:]]
    ours = [t >= encoded.first_label for t in range(1, len(ids))]
    assert ours == wanted


def test_eos_is_not_added_twice(world):
  encoder = encoding.Encoder(world[1], max_length=96, train_on_inputs=True)
  answer = world[1].special.mark('"A"</s>')
  text = source_lib.Text("Say. ", answer, "Say. ")
  tokens = encoder.encode_batch([text])[0].tokens.tolist()
  assert tokens.count(2) == 1
  assert tokens[-1] == 2


def test_cut_examples_are_counted_and_told_once(world, caplog):
  stream = _stream(world, max_length=20, train_on_inputs=False, num_epochs=1)
  steps = list(stream)
  cut = sum(
    len(ids) > 20
    for ids in world[1].encode_batch(pipeline.training_texts(world[0]))
  )
  assert stream.encoded.truncated == cut > 1
  # The prompt alone is longer than 20 tokens wherever there is a history.
  assert stream.encoded.unlabelled > 1
  assert sum(len(_sequences(step)) for step in steps) == NUM_EXAMPLES
  told = [r.message for r in caplog.records if "train row 100" in r.message]
  assert len(told) == 2


def test_overrides_replace_instruction_and_input(world):
  source, _ = world
  examples, catalogue, prompt = source.examples, source.catalogue, source.prompt
  texts = [source.parts(n) for n in range(len(source))]
  assert texts[3][:2] == ("Say one.", "")
  assert texts[3].output == f'"{catalogue.titles[examples.target[3]]}"'
  history = [catalogue.titles[i] for i in examples.history[4] if i >= 0]
  assert texts[4].input == prompt.input_text(history)
  assert texts[4].instruction == "Say a film."


def test_question_tokens_are_the_inference_prompts(world):
  source, tokenizer = world
  tokens = pipeline.question_tokens(*world)
  assert len(tokens) == NUM_EXAMPLES
  for n, ids in enumerate(tokens):
    asked = source.parts(n)[:2]
    assert ids == tokenizer.encode(source.prompt.inference_text(*asked))
    assert ids[0] == tokenizer.bos_id
    assert ids[-1] != tokenizer.eos_id


@pytest.mark.parametrize("packing", [True, False])
def test_eval_batches_give_every_example_in_file_order(world, packing):
  batches = pipeline.eval_batches(
    *world, _config(packing=packing), rows=2, batch_size=8
  )
  assert len(batches) == 3
  for _ in range(2):  # As often as wanted.
    groups = [_sequences(group) for group in batches]
    assert groups == [
      _expected(world, range(at, min(at + 8, NUM_EXAMPLES)))
      for at in (0, 8, 16)
    ]


def test_no_examples_is_a_user_error(world):
  source = world[0]
  none = source.examples.take(slice(0, 0))
  empty = next_title.Titles(none, source.catalogue, source.prompt)
  with pytest.raises(errors.UserError, match="0 examples found"):
    _stream((empty, world[1]))
  with pytest.raises(errors.UserError, match="0 examples found"):
    pipeline.text_stream(empty, world[1], batch_size=2, max_length=96, seed=0)


def _text_stream(world, seed=0):
  return pipeline.text_stream(*world, batch_size=4, max_length=256, seed=seed)


def test_text_stream_gives_every_drawn_text_once_and_soon(world):
  stream = _text_stream(world)
  counts = collections.Counter()
  for _ in range(60):
    batch = next(stream)
    assert batch["tokens"].shape == (4, 256)
    counts.update(_sequences([batch]))
    state = stream.get_state()
    # 64 texts are drawn at once; the pool is what is drawn but not given.
    assert counts.total() + len(state["pool"]) == state["position"]
    pool = len(state["pool"]) + 64
    assert state["position"] - min(state["pool"]) <= 6 * pool
  everything = collections.Counter(_expected(world, range(NUM_EXAMPLES)))
  assert set(counts) == set(everything)
  epochs = -(-state["position"] // NUM_EXAMPLES)
  for sequence, times in everything.items():
    assert counts[sequence] <= times * epochs
  assert stream.utilisation > 0.9
  assert stream.slots == 60 * 4 * 256


def test_text_stream_is_deterministic_and_resumes(world):
  stream = _text_stream(world)
  head = [[next(stream)] for _ in range(3)]
  state = json.loads(json.dumps(stream.get_state()))
  rest = [[next(stream)] for _ in range(3)]
  again = _text_stream(world)
  _equal(head, [[next(again)] for _ in range(3)])
  resumed = _text_stream(world)
  resumed.set_state(state)
  _equal(rest, [[next(resumed)] for _ in range(3)])
  other = _text_stream(world, seed=1)
  assert _sequences([next(other)]) != _sequences(head[0])
