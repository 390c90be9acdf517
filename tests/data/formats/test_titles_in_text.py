"""Titles found in the texts of ready rows."""

import time

import pytest

from bigrec_jax.data.formats import titles_in_text

TITLES = {"1": "Doom", "2": 'Me", "Myself", "and I', "3": ' "Quoted", "'}


def text(*titles):
  return "Before: " + ", ".join(f'"{title}"' for title in titles) + "\n "


@pytest.mark.parametrize(
  ("titles", "rows"),
  [
    (["Doom", TITLES["2"], "Doom"], [0, 1, 0]),
    (["Nothing", TITLES["2"], "Me", "Doom"], [1, 0]),
    ([TITLES["3"], "Doom"], [2, 0]),
    (['", "Quoted', "Doom"], [0]),
  ],
)
def test_a_title_with_the_separator_in_it_is_joined(titles, rows):
  assert titles_in_text.Finder(TITLES).history("row 1", text(*titles)) == rows


def test_a_history_of_thousands_of_unknown_titles_takes_no_minutes():
  """All pieces were joined with all after them: the square of their number."""
  finder = titles_in_text.Finder(TITLES)
  unknown = [f"Nothing like it {n}" for n in range(4000)]
  start = time.process_time()
  found = finder.history("row 1", text(*unknown, TITLES["2"], *unknown, "Doom"))
  assert found == [1, 0]
  assert time.process_time() - start < 2
