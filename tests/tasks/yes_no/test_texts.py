"""The published words, byte for byte, and the answers' tokens."""

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.data.prepared import catalogue as catalogue_lib
from bigrec_jax.tasks.yes_no import samples, scoring, texts
from tests.tasks.yes_no import made_up

HEADER = (
  "Below is an instruction that describes a task, paired with an input that"
  " provides further context. Write a response that appropriately completes"
  " the request.  # noqa: E501\n\n### Instruction:\nGiven the user's preference"
  " and unpreference, identify whether the user will like the target NOUN by"
  ' answering "Yes." or "No.".\n\n### Input:\n'
)


def _source(titles, history, liked, label, noun):
  made = samples.Samples(
    "test",
    np.array([4]),
    np.array([0]),
    np.array([history], np.int32),
    np.array([liked]),
    np.array([len(titles) - 1], np.int32),
    np.array([label]),
  )
  catalogue = catalogue_lib.Catalogue(
    tuple(map(str, range(len(titles)))),
    tuple(titles),
    np.ones(len(titles), np.int64),
  )
  return texts.Texts(made, catalogue, made_up.PROMPT, noun)


def test_golden_bytes_of_a_movie():
  titles = ["Dave (1993)", "Orlando (1993)", "Kalifornia (1993)", "Heat, The"]
  source = _source(
    titles, [0, 2, 1, -1], [True, False, True, False], False, "movie"
  )
  prompt = HEADER.replace("NOUN", "movie") + (
    'User Preference: "Dave (1993)", "Orlando (1993)"\n'
    'User Unpreference: "Kalifornia (1993)"\n'
    'Whether the user will like the target movie "Heat, The"?'
    "\n\n### Response:\n"
  )
  text = source.text(0)
  assert text == (prompt, "No.", prompt, (), ())
  assert source.name(0) == "test sample 4"
  assert source.content(0)["output"] == "No."


def test_golden_bytes_of_a_book():
  """The target has a second pair of quotes, as in the published files."""
  titles = [
    "The Bean Trees written by Barbara Kingsolver",
    "Epitaph for a Peach: Four Seasons written by David M. Masumoto",
  ]
  text = _source(titles, [0, -1], [True, False], True, "book").text(0)
  assert text.prompt == HEADER.replace("NOUN", "book") + (
    'User Preference: "The Bean Trees" written by Barbara Kingsolver\n'
    "User Unpreference: \n"
    'Whether the user will like the target book ""Epitaph for a Peach: Four'
    ' Seasons" written by David M. Masumoto"?\n\n### Response:\n'
  )
  assert text.answer == "Yes."


def test_answers_are_tokens_of_the_tokenizer(tmp_path):
  tokenizer = made_up.tokenizer(tmp_path)
  question = made_up.source("valid", 3, 1).text(0).question
  yes, no = scoring.answer_ids(tokenizer, question)
  assert tokenizer.decode([yes]) == "Yes"
  assert tokenizer.decode([no]) == "No"


def test_an_answer_of_several_tokens_is_refused(tmp_path):
  tokenizer = made_up.tokenizer(tmp_path, size=262)
  with pytest.raises(errors.UserError, match="'Yes' is [23] tokens after a pr"):
    scoring.answer_ids(tokenizer, "Yes or no?\n")
