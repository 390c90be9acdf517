"""The titles of a numbered list that a chat model wrote.

As the benchmark's notebook reads answers (jizhi-zhang/FaiRLLM, process.ipynb,
a154dd6), quirks and all: an entry begins behind digits, a full stop and a
blank, wherever they are ("Part 2. The End" is cut there), so an answer without
numbers has no title; what follows a hyphen is dropped, also within a word; of
several quoted parts the first counts; apostrophes, blanks and what stands in
parentheses don't count, nor does case.
"""

import re

_DROPPED = re.compile(r"['\n]")
_NUMBER = re.compile(r"\d+\. ")
_QUOTED = re.compile(r'"([^"]*)"')
_PARENTHESES = re.compile(r"\([^)]*\)")


def titles(answer: str) -> list[str]:
  """Returns the titles of an answer, in order; repeats and "" are kept."""
  entries = _NUMBER.split(_DROPPED.sub("", answer.lower()))[1:]
  return [plain(_entry(entry)) for entry in entries]


def plain(title: str) -> str:
  """Returns a title as titles are compared: no parentheses, no blanks."""
  return _PARENTHESES.sub("", title).replace(" ", "")


def of_title(title: str) -> str:
  """Returns a title of a catalogue, or a beam, as an answer's would read."""
  return plain(_entry(_DROPPED.sub("", title.lower())))


def _entry(entry: str) -> str:
  entry = entry.partition("-")[0]
  if '"' not in entry:
    return entry.strip(" ")
  quoted = _QUOTED.search(entry)
  return (quoted[1] if quoted else entry.replace('"', "")).strip(" ")
