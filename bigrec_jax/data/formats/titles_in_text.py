"""Finds the items of a catalogue in the texts of ready rows."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from bigrec_jax.data.prepared import catalogue, doctor as doctor_lib

_BETWEEN = '", "'


def lead(text: str) -> str:
  """Returns what comes before the first title, or before the end's blanks."""
  first = text.find('"')
  return text[:first] if first >= 0 else text.removesuffix("\n ")


class Finder:
  """Looks up ids and titles and counts what it doesn't find.

  Titles are matched exactly, then cleaned (prompts.clean_title), then after
  undoing the ISO-8859-1 misreading of the published Movie notebook. Of rows
  with equal titles the first is found.
  """

  def __init__(self, titles: Mapping[str, str]):
    self._catalogue = catalogue.Catalogue(
      tuple(titles), tuple(titles.values()), np.zeros(len(titles), np.int64)
    )
    # Of one title; both ends may lose a quote when titles are cleaned.
    most = max((title.count(_BETWEEN) for title in titles.values()), default=0)
    self._most_pieces = most + 3
    self._unknown: Counter[str] = Counter()
    self._unread: list[str] = []
    self._repaired = 0

  @property
  def titles(self) -> tuple[str, ...]:
    """All titles by catalogue row."""
    return self._catalogue.titles

  def title(self, text: str) -> int | None:
    """Returns the row of a title, None where there is none."""
    row = self._catalogue.index_of_title(text)
    if row is None and not text.isascii():
      try:
        repaired = text.encode("iso-8859-1").decode("utf-8")
      except UnicodeError:
        return None
      row = self._catalogue.index_of_title(repaired)
      self._repaired += row is not None
    return row

  def output(self, text: str) -> int | None:
    """Returns the row of a target in double quotes, None if unknown."""
    row = self.title(text.strip().removeprefix('"').removesuffix('"'))
    return self.title(text) if row is None else row

  def ids(self, external_ids: Sequence[str]) -> list[int | None]:
    """Returns the rows of external ids; unknown ones are counted."""
    rows = [self._catalogue.index_of_external_id(key) for key in external_ids]
    for key, row in zip(external_ids, rows, strict=True):
      if row is None:
        self._unknown[key] += 1
    return rows

  def history(self, where: str, text: str) -> list[int]:
    """Returns the known items of an input block, in its order.

    Args:
      where: file and row, for the doctor.
      text: the lead, then quoted titles with a comma and a blank between.
    """
    body = text[len(lead(text)) :].rstrip()
    if not body:
      return []
    if len(body) < 2 or body[-1] != '"':
      self._unread.append(where)
      return []
    pieces = body[1:-1].split(_BETWEEN)
    rows = [self.title(piece) for piece in pieces]
    if None in rows:
      rows = self._join(pieces)
    return [row for row in rows if row is not None]

  def _join(self, pieces: Sequence[str]) -> list[int | None]:
    """Looks pieces up, joining those of a title that has '", "' in it."""
    rows: list[int | None] = []
    start = 0
    while start < len(pieces):
      for stop in range(min(len(pieces), start + self._most_pieces), start, -1):
        row = self.title(_BETWEEN.join(pieces[start:stop]))
        if row is not None:
          break
      else:
        stop = start + 1
        self._unknown[pieces[start]] += 1
      rows.append(row)
      start = stop
    return rows

  def report(self, doctor: doctor_lib.Doctor) -> None:
    """Tells what was odd."""
    doctor.found(
      "history items that the catalogue lacks (kept in a row's text only)",
      self._unknown.total(),
      self._unknown,
    )
    doctor.found(
      "inputs that aren't a list of quoted titles (kept as text only)",
      len(self._unread),
      self._unread,
    )
    doctor.found(
      "titles found only after undoing ISO-8859-1 misreading", self._repaired
    )
