"""Soft tokens from texts to rows: encoded, packed, and beside a header."""

import dataclasses

import numpy as np
import pytest

from bigrec_jax.data.text import (
  encoding,
  packing,
  pipeline,
  shared_header,
  source as source_lib,
  tokenization,
)
from tests.training import tiny

SOFT = source_lib.SOFT
TITLES = ("Halo", "The Sims 2", "Portal", "Doom <s> II")


@dataclasses.dataclass(frozen=True)
class Texts:
  """Six histories; the first `plain` are those without items."""

  split: str = "train"
  fingerprints: tuple[str, ...] = ("texts",)

  def __len__(self):
    return 6

  def text(self, k):
    n, plain = k % 6, k >= 6
    items = [(n + i) % 4 for i in range(1 + n % 3)]
    listed = ", ".join(TITLES[i] + SOFT for i in items)
    asked = f"Played {listed}. The next game of this user will surely be "
    soft = tuple(-1 if plain else i for i in items)
    return source_lib.Text(asked, TITLES[n % 4], asked, soft=soft)

  def name(self, n):
    return f"row {n}"

  def content(self, n):
    return {}


class Scheduled(Texts):
  """Plain in even steps."""

  def at_step(self, step, num_steps, numbers):
    assert 0 <= step < num_steps
    return [n + 6 * (step % 2 == 0) for n in numbers]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  root = tmp_path_factory.mktemp("bpe")
  words = [*TITLES, "Played . The next game of this user will surely be , "]
  tokenization.train_bpe(words, 300, root)
  return tokenization.load_tokenizer(root)


def _by_hand(tokenizer, text):
  """Returns (ids, places) of a text, piece after piece."""
  ids, places = [tokenizer.bos_id], []
  for number, piece in enumerate(text.split(SOFT)):
    if number:
      places.append(len(ids))
      ids.append(tokenizer.pad_id)
    ids += tokenizer.encode_data([piece])[0][1:]
  return ids, places


def test_texts_are_encoded_piece_by_piece(tokenizer):
  source = Texts()
  for train_on_inputs in (False, True):
    encoder = encoding.Encoder(
      tokenizer, max_length=64, train_on_inputs=train_on_inputs
    )
    texts = [source.text(n) for n in range(6)]
    for text, found in zip(texts, encoder.encode_batch(texts), strict=True):
      ids, places = _by_hand(tokenizer, text.training)
      assert found.tokens.tolist() == [*ids, tokenizer.eos_id]
      assert found.places.tolist() == places
      assert found.items.tolist() == list(text.soft)
      asked, _ = _by_hand(tokenizer, text.prompt)
      assert found.first_label == (1 if train_on_inputs else len(asked))
  questions = pipeline.soft_questions(source, tokenizer)
  for text, found in zip(texts, questions, strict=True):
    ids, places = _by_hand(tokenizer, text.question)
    assert (found.tokens.tolist(), found.places.tolist()) == (ids, places)
  short = encoding.Encoder(tokenizer, max_length=9, train_on_inputs=False)
  for found in short.encode_batch(texts):
    assert len(found.places) == len(found.items)
    assert (found.places < 9).all()


def test_rows_hold_the_places_and_no_label_there(tokenizer):
  config = tiny.config(
    max_length=80, train_on_inputs=True, batch_size=6, shuffle=False
  ).train
  for source, plain in ((Texts(), False), (Scheduled(), True)):
    stream = pipeline.TrainStream(source, tokenizer, config, rows=8, seed=0)
    (batch,) = next(stream)
    assert batch["soft_places"].shape == (8, 10)
    at = batch["soft_places"]
    rows, columns = np.nonzero(at < 80)
    wanted = sum(len(source.text(n).soft) for n in range(6))
    assert len(rows) == (0 if plain else wanted)
    for r, c in zip(rows, columns, strict=True):
      place = at[r, c]
      assert batch["tokens"][r, place] == tokenizer.pad_id
      assert batch["loss_mask"][r, place] == 0
      before = batch["tokens"][r, max(place - 24, 0) : place]
      title = TITLES[batch["soft_items"][r, c]]
      assert tokenizer.decode(before).endswith(title)
    unlabelled = (batch["segment_ids"] > 0) & (batch["loss_mask"] == 0)
    assert unlabelled.sum() == wanted + 6  # And the first of each text.


def test_steps_read_what_the_schedule_says_and_resume(tokenizer):
  config = tiny.config(
    max_length=80, batch_size=2, shuffle=False, num_epochs=2
  ).train

  def stream():
    return pipeline.TrainStream(Scheduled(), tokenizer, config, rows=8, seed=0)

  steps, state = list(stream()), None
  assert len(steps) == 6
  for number, (batch,) in enumerate(steps):
    real = (batch["soft_places"] < 80).any()
    assert real == (number % 2 == 1)
  first = stream()
  next(first), next(first), next(first)
  state = first.get_state()
  again = stream()
  again.set_state(state)
  for one, other in zip(again, steps[3:], strict=True):
    for key in one[0]:
      np.testing.assert_array_equal(one[0][key], other[0][key])


def test_a_header_ends_before_the_first_soft_token():
  beginning = list(range(1, 25))

  def example(place, item):
    places, items = np.array([place, 26]), np.array([item, 2])
    tokens = np.array([*beginning, 7, 0, 8], np.int32)
    return encoding.Encoded(tokens, 1, False, places, items)

  class Sample(list):
    def get(self, numbers):
      return [self[n] for n in numbers]

  header = shared_header.find(Sample(example(20, i) for i in (4, 5)))
  assert header.tokens.tolist() == beginning[:20]
  own = header.own_part(example(20, 4))
  assert own.places.tolist() == [1, 7] and own.items.tolist() == [4, 2]
  assert own.tokens[1] == beginning[20]
  assert header.own_part(example(19, 4)) is None
  packed = packing.fill([[own, own]], 1, 24, 0, header.length)
  # Three places of an eighth are too few; six hold four.
  assert packed["soft_places"].tolist() == [[1, 7, 9, 15, 24, 24]]
  assert packed["soft_items"].tolist() == [[4, 2, 4, 2, 0, 0]]
