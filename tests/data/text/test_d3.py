"""D3's prompt: bytes typed by hand, tokens piece by piece, cut from the left.

The pieces follow the published code/dataset.py (SAI990323/DecodingMatters,
585c842): header, history and response are encoded by a call each.
"""

import numpy as np
import pytest

from bigrec_jax.data.text import encoding, pipeline, prompts, tokenization
from bigrec_jax.tasks import next_title
from bigrec_jax.testing import store

PROMPT = prompts.Prompt(
  "d3",
  "Given a list of toys and games the user recetenly enjoy, please write a new"
  " toys and games that the user may bought",
  "The user has palyed the following toys and gamess before: ",
)
HEADER = (
  b"Below is an instruction that describes a task, paired with an input that"
  b" provides further context. Write a response that appropriately completes"
  b" the request. \n\n### Instruction:\nGiven a list of toys and games the user"
  b" recetenly enjoy, please write a new toys and games that the user may"
  b" bought\n"
)
QUESTION = (
  b"### User Input: \nThe user has palyed the following toys and gamess"
  b' before: "Uno", "Go, Fish"\n\n### Response: \n'
)
ANSWER = b'"Chess"\n'


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> tokenization.Tokenizer:
  return store.tokenizer(tmp_path_factory.mktemp("tokenizer"))


def _text(titles=("Uno", "Go, Fish"), target="Chess"):
  parts = next_title.Parts(
    PROMPT.instruction, PROMPT.input_text(titles), PROMPT.output_text(target)
  )
  return next_title.text_of(parts, PROMPT)


def test_golden_bytes():
  text = _text()
  assert text.prompt.encode() == HEADER + QUESTION
  assert text.question == text.prompt
  assert text.answer.encode() == ANSWER
  assert text.seams == (len(HEADER), len(HEADER) + len(QUESTION))


def _published(tokenizer, max_length):
  """Does what `pre` does: three calls, then the last tokens and labels."""
  bos = [tokenizer.bos_id] if tokenizer.add_bos else []

  def alone(piece):
    return tokenizer.encode(piece.decode())[len(bos) :]

  prompt = bos + alone(HEADER) + alone(QUESTION)
  answer = alone(ANSWER) + [tokenizer.eos_id]
  labels = [-100] * len(prompt) + answer
  return (prompt + answer)[-max_length:], labels[-max_length:]


@pytest.mark.parametrize("max_length", [512, 40, 12, 3])
def test_tokens_and_labels_are_the_published_ones(tokenizer, max_length):
  encoder = encoding.Encoder(
    tokenizer, max_length=max_length, train_on_inputs=False
  )
  (found,) = encoder.encode_batch([_text()])
  tokens, labels = _published(tokenizer, max_length)
  assert found.tokens.tolist() == tokens
  # Nothing predicts the first token of a text.
  expected = [n for n, label in enumerate(labels) if label != -100 and n > 0]
  assert list(range(found.first_label, len(tokens))) == expected
  assert found.cut == (max_length < 512)


def test_pieces_are_encoded_apart(tokenizer):
  """Where a title's quote could merge with the line before, it does not."""
  whole = tokenizer.encode(_text().training)
  encoder = encoding.Encoder(tokenizer, max_length=512, train_on_inputs=True)
  (found,) = encoder.encode_batch([_text()])
  assert found.first_label == 1
  assert tokenizer.decode(found.tokens) == tokenizer.decode(whole)
  assert found.tokens[-1] == tokenizer.eos_id


def test_questions_are_the_prompts_of_training_uncut(tokenizer):
  source = next_title.Titles(
    store.examples("valid", 5, 1), store.catalogue(), PROMPT
  )
  encoder = encoding.Encoder(tokenizer, max_length=512, train_on_inputs=False)
  questions = pipeline.question_tokens(source, tokenizer)
  for n, question in enumerate(questions):
    (found,) = encoder.encode_batch([source.text(n)])
    assert found.tokens[: found.first_label].tolist() == question
  assert len({len(question) for question in questions}) > 1


def test_other_styles_are_one_piece(tokenizer):
  source = store.source("train", 3, 0)
  assert not any(source.text(n).seams for n in range(3))
  texts = [(source.text(n).question, ()) for n in range(3)]
  assert encoding.encode_questions(tokenizer, texts) == tokenizer.encode_data(
    [text for text, _ in texts]
  )


def test_warning_says_which_end_is_lost(tokenizer, caplog):
  source = next_title.Titles(
    store.examples("train", 2, 0), store.catalogue(), PROMPT
  )
  cut = encoding.EncodedExamples(
    source, tokenizer, max_length=8, train_on_inputs=False
  )
  with caplog.at_level("WARNING"):
    found = cut.get([0])[0]
  assert "loses its beginning" in caplog.text
  assert len(found.tokens) == 8
  assert np.array_equal(found.tokens[-1:], [tokenizer.eos_id])
