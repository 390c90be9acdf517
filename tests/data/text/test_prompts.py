"""Prompt strings against bytes typed by hand (docs/protocol.md, Prompts)."""

import dataclasses

import pytest

from bigrec_jax import errors
from bigrec_jax.data.text import prompts

MOVIE_INSTRUCTION = (
  "Given a list of movies the user has watched before, please recommend a new"
  " movie that the user likes to the user."
)
MOVIE_LEAD = "The user has watched the following movies before:"
TITLES = ["Heat (1995)", "Sabrina (1995)"]

HEADER = (
  b"Below is an instruction that describes a task, paired with an input that"
  b" provides further context. Write a response that appropriately completes"
  b" the request."
)
NO_INPUT_HEADER = (
  b"Below is an instruction that describes a task. Write a response that"
  b" appropriately completes the request.  "
)
BODY = (
  b"\n\n### Instruction:\nGiven a list of movies the user has watched before,"
  b" please recommend a new movie that the user likes to the user.\n\n"
  b"### Input:\nThe user has watched the following movies before:"
  b'"Heat (1995)", "Sabrina (1995)"\n \n\n### Response:\n'
)


def _movie(style: str) -> prompts.Prompt:
  return prompts.Prompt(style, MOVIE_INSTRUCTION, MOVIE_LEAD)


@pytest.mark.parametrize(
  "style, training_blanks, inference_blanks",
  [
    ("bigrec", b" ", b"  "),
    ("consistent", b" ", b" "),
    ("tallrec", b"  # noqa: E501", b"  # noqa: E501"),
  ],
)
def test_golden_bytes_with_input(style, training_blanks, inference_blanks):
  prompt = _movie(style)
  text = prompt.input_text(TITLES)
  output = prompt.output_text("Casino (1995)")
  training = prompt.training_text(prompt.instruction, text, output)
  inference = prompt.inference_text(prompt.instruction, text)
  assert training.encode() == HEADER + training_blanks + BODY + (
    b'"Casino (1995)"'
  )
  assert inference.encode() == HEADER + inference_blanks + BODY
  without_response = prompt.prompt_text(prompt.instruction, text)
  assert without_response.encode() == HEADER + training_blanks + BODY


@pytest.mark.parametrize("style", ["consistent", "bigrec"])
def test_golden_bytes_without_input(style):
  prompt = _movie(style)
  header = NO_INPUT_HEADER
  if style == "tallrec":
    header += b"# noqa: E501"
  expected = header + b"\n\n### Instruction:\nSay a film.\n\n"
  expected += b"### Response:\n"
  assert prompt.inference_text("Say a film.", "").encode() == expected
  training = prompt.training_text("Say a film.", "", '"Heat"')
  assert training.encode() == expected + b'"Heat"'


def test_consistent_trains_on_the_header_it_generates_from():
  prompt = _movie("consistent")
  text = prompt.input_text(TITLES)
  inference = prompt.inference_text("i", text)
  assert prompt.training_text("i", text, '"x"') == inference + '"x"'


def test_input_text_has_the_blank_that_the_lead_has():
  toys = prompts.Prompt("bigrec", "", "The user has used these toys before: ")
  assert toys.input_text(["A", 'B "b"']) == (
    'The user has used these toys before: "A", "B "b""\n '
  )
  assert _movie("bigrec").input_text(["A"]) == f'{MOVIE_LEAD}"A"\n '


def test_empty_history_keeps_the_input_block():
  prompt = _movie("bigrec")
  assert prompt.input_text([]) == MOVIE_LEAD + "\n "
  assert "### Input:" in prompt.inference_text("i", prompt.input_text([]))


def test_non_ascii_titles_pass_unchanged():
  title = " Amélie™ &amp; 二つ "
  assert _movie("bigrec").output_text(title) == '" Amélie™ &amp; 二つ "'


def test_unknown_style_is_a_user_error():
  with pytest.raises(errors.UserError, match="prompt.style.*'alpaca'"):
    _movie("alpaca")


def test_from_config_takes_the_section():
  @dataclasses.dataclass(frozen=True)
  class Section:
    style: str = "bigrec"
    instruction: str = MOVIE_INSTRUCTION
    history: str = MOVIE_LEAD

  assert prompts.Prompt.from_config(Section()) == _movie("bigrec")


def test_renders_the_published_format_of_a_real_row(shared_data):
  import gzip
  import json

  path = shared_data / "amazon-toys" / "test.json.gz"
  with gzip.open(path, "rt", encoding="utf-8") as file:
    row = json.load(file)[0]
  lead, _, rest = row["input"].partition('"')
  titles = rest.removesuffix('"\n ').split('", "')
  prompt = prompts.Prompt("bigrec", row["instruction"], lead)
  assert lead.endswith("before: ")
  assert prompt.input_text(titles) == row["input"]
  assert prompt.output_text(row["output"][1:-1]) == row["output"]


@pytest.mark.parametrize(
  "generated, title",
  [
    ('"Heat (1995)"', "Heat (1995)"),
    ('"Heat (1995)"\n', "Heat (1995)"),
    ('" Heat (1995)"', "Heat (1995)"),
    ('"Heat" "', "Heat"),
    ("Heat", "Heat"),
    ('noise ### Response:\n"Heat"', "Heat"),
    ('"A"\n### Response:\n"B"\n### Response:\n"C"', "C"),
    ('"The "Burbs"', 'The "Burbs'),
    ("", ""),
    ('"', ""),
    ('"A"\n\n### Response:\n', ""),
  ],
)
def test_extract_title(generated, title):
  assert prompts.extract_title(generated) == title
  assert prompts.clean_title(title) == title


def test_response_text_keeps_the_quotes():
  assert prompts.response_text('x Response:\n"A"\n') == '"A"\n'
  assert prompts.response_text('"A"') == '"A"'
