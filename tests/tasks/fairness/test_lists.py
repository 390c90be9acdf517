import pytest

from bigrec_jax.tasks.fairness import lists

# An answer, and the titles that the benchmark's notebook reads in it.
ANSWERS = [
  ("1. Alpha\n2. Beta Max\n3. Gamma", ["alpha", "betamax", "gamma"]),
  # Case, apostrophes, years and blanks don't count.
  ("Sure!\n\n1. Bird's Nest (1996)\n2.  The  End ", ["birdsnest", "theend"]),
  # A hyphen ends a title, of a subtitle as of a word.
  ("1. Alpha - a classic\n2. X-Ray", ["alpha", "x"]),
  # Quotes: the first pair counts, and one alone is taken off.
  ('1. "Alpha" and "Beta"\n2. "Gamma\n', ["alpha", "gamma"]),
  # What is quoted before a hyphen, and a hyphen within quotes.
  ('1. "Alpha" - by A\n2. "Beta-Max"', ["alpha", "beta"]),
  # A number within a title begins another entry.
  ("1. Part 2. The End\n2. Beta", ["part", "theend", "beta"]),
  # Bullets and plain lines are no list.
  ("- Alpha\n- Beta\nGamma", []),
  ("1) Alpha 2) Beta", []),
  ("", []),
  ("1. \n2. Beta", ["", "beta"]),
]


@pytest.mark.parametrize("answer, expected", ANSWERS)
def test_titles_of_an_answer(answer, expected):
  assert lists.titles(answer) == expected


@pytest.mark.parametrize(
  "title", ["Bird's Nest (1996)", "X-Ray", '"Alpha" (2)', "Plain Title"]
)
def test_a_title_reads_as_it_would_in_an_answer(title):
  assert [lists.of_title(title)] == lists.titles(f"1. {title}")
