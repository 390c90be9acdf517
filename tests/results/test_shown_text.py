"""Titles on a terminal and in the report: one line, in its own direction."""

import json
import unicodedata

import pytest

from bigrec_jax import errors
from bigrec_jax.results import page, table
from bigrec_jax.stages import session

HOSTILE = "a\nb\r\tc\x1b[2Jd\x9be\u202ef\u2066g\u2028h\x7f\ud800</td>"


def test_nothing_that_a_terminal_obeys_is_left():
  shown = errors.one_line(HOSTILE)
  assert shown.isprintable()
  # The escapes are JSON's, so that a line of JSON stays the same value.
  assert json.loads(f'"{shown}"') == HOSTILE
  line = json.dumps({"title": HOSTILE}, ensure_ascii=False)
  assert json.loads(errors.one_line(line)) == {"title": HOSTILE}


@pytest.mark.parametrize(
  "title",
  ["Amélie 二つ", "👨\u200d👩\u200d👧 family", "שלום", "a\xa0b", "Ⅷ ½ ﬁ"],
)
def test_other_titles_are_shown_as_they_are(title):
  assert errors.one_line(title) == title


def test_every_control_and_override_is_escaped():
  """All characters of Unicode that move the cursor or turn the direction."""
  turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
  for number in range(0x110000):
    character = chr(number)
    if (
      unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs")
      or unicodedata.bidirectional(character) in turning
    ):
      assert errors.one_line(character) != character, hex(number)


def test_messages_tables_lines_and_pages_escape(capsys):
  assert str(errors.UserError(f"x: {HOSTILE}")).isprintable()
  rows = table.format_table(["title", "id"], [[HOSTILE, 1], ["b", 2]])
  assert len(rows.split("\n")) == 4 and "\x1b" not in rows
  session.say(f"first {HOSTILE[3:]}\nsecond")
  first, second = capsys.readouterr().out.splitlines()
  assert "\x1b" not in first and "\u202e" not in first and second == "second"
  html = page.element("td", HOSTILE)
  assert (
    "\u202e" not in html and "\x1b" not in html and html.count("</td>") == 1
  )
