"""Format `bigrec`: ready rows of instruction, input and output.

`data.train`, `data.valid` and `data.test` are JSON arrays (or JSON lines) of
`{"instruction", "input", "output"}`, plain or .gz, as BIGRec's notebooks write
and train.py reads; `data.catalogue` gives id and title of every item. They may
also be .csv files with columns `item_ids` (a list of external ids, the target
last) and, if known, `user_id` and `timestamp`. Without `data.valid` the last
ninth of the train rows by time becomes the valid split (csv only).

Titles are looked up in the catalogue. Where the prompt makes the very text of
a row from its items, only the items are kept; other rows keep their text as
well. A target that isn't in the catalogue is an error, a history title that
isn't stays in the text alone.
"""

import csv
import dataclasses
import json
import pathlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bigrec_jax import errors, prompts
from bigrec_jax.config import DataConfig
from bigrec_jax.data import (
  catalogue,
  doctor as doctor_lib,
  raw_files,
  splits,
  title_files,
)

_BETWEEN = '", "'


@dataclasses.dataclass(frozen=True)
class Row:
  """One row in catalogue rows.

  Attributes:
    history: at most max_history items, oldest first.
    target: the item.
    user: the external user id, "" if unknown.
    timestamp: of the target, 0 if unknown.
    text: (instruction, input) where the prompt makes another one.
  """

  history: tuple[int, ...]
  target: int
  user: str
  timestamp: int
  text: tuple[str, str] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
  """All rows of all splits.

  Attributes:
    titles: title by external id, in the order of the catalogue.
    windows: the rows by split.
    overrides: (instruction, input) by split and row.
    instructions: (instruction, history lead) of the files, most frequent
      first.
  """

  titles: Mapping[str, str]
  windows: Mapping[str, splits.Windows]
  overrides: Mapping[str, Mapping[int, tuple[str, str]]]
  instructions: Sequence[tuple[str, str]]


def files(data: DataConfig) -> dict[str, pathlib.Path]:
  """Returns the raw files by role: the splits and `titles`.

  Raises:
    UserError: a file is missing.
  """
  found = {"titles": raw_files.given("data.catalogue", data.catalogue)}
  for split in splits.SPLITS:
    value = getattr(data, split)
    if split == "valid" and not value and _is_csv(data.train):
      continue
    found[split] = raw_files.given(f"data.{split}", value)
  return found


def read(
  data: DataConfig, prompt: prompts.Prompt, doctor: doctor_lib.Doctor
) -> Rows:
  """Reads all rows.

  Raises:
    UserError: a file is missing, a row is malformed, or its target is not in
      the catalogue.
  """
  found = files(data)
  titles = title_files.read(found.pop("titles"), data.encoding, doctor)
  reader = _Reader(titles, prompt, data.max_history, doctor)
  rows = {split: list(reader.rows(path)) for split, path in found.items()}
  for split, path in found.items():
    if not rows[split]:
      raise errors.UserError(f"{path}: no rows found, at least one expected")
  if "valid" not in rows:
    rows["train"], rows["valid"] = _cut_valid(rows["train"], found["train"])
    doctor.note(
      f"data.valid is empty: the last {len(rows['valid']):,} train rows by"
      " time are the valid split"
    )
  reader.report()
  overrides = {
    split: {n: row.text for n, row in enumerate(part) if row.text}
    for split, part in rows.items()
  }
  for split, texts in overrides.items():
    doctor.found(
      f"{split} rows that keep their own text (the prompt of the configuration"
      " makes another)",
      len(texts),
    )
  windows = _windows(rows, data.max_history)
  return Rows(titles, windows, overrides, reader.instructions())


def _is_csv(path: str | pathlib.Path) -> bool:
  return str(path).removesuffix(".gz").endswith(".csv")


def _cut_valid(
  train: list[Row], path: pathlib.Path
) -> tuple[list[Row], list[Row]]:
  if not any(row.timestamp for row in train):
    raise errors.UserError(
      f"config.data.valid: empty, and {path} has no timestamp to cut a valid"
      " split by"
    )
  train = sorted(train, key=lambda row: row.timestamp)  # Stable.
  valid = len(train) // 9
  if not valid:
    raise errors.UserError(
      f"config.data.valid: empty, and {path} has {len(train)} rows, too few to"
      " cut a valid split from"
    )
  return train[:-valid], train[-valid:]


def _windows(
  rows: Mapping[str, list[Row]], max_history: int
) -> dict[str, splits.Windows]:
  """Lays the rows out as one short sequence each."""
  users: dict[str, int] = {}
  windows = {}
  for split, part in rows.items():
    sizes = np.array([len(row.history) + 1 for row in part])
    ends = np.cumsum(sizes)
    user = [
      users.setdefault(row.user, len(users)) if row.user else -1 for row in part
    ]
    items = [item for row in part for item in (*row.history, row.target)]
    index = np.arange(ends[-1]) - np.repeat(ends - sizes, sizes)
    windows[split] = splits.Windows(
      splits.Timeline(
        user=np.repeat(np.array(user, np.int64), sizes),
        item=np.array(items, np.int32),
        timestamp=np.repeat(
          np.array([row.timestamp for row in part], np.int64), sizes
        ),
        index=index.astype(np.int32),
        length=np.repeat(sizes, sizes).astype(np.int32),
      ),
      targets=ends - 1,
      max_history=max_history,
    )
  return {split: windows[split] for split in splits.SPLITS}


class _Reader:
  """Turns the texts of rows into catalogue rows and counts what is odd."""

  def __init__(
    self,
    titles: Mapping[str, str],
    prompt: prompts.Prompt,
    max_history: int,
    doctor: doctor_lib.Doctor,
  ):
    self._titles = tuple(titles.values())
    self._catalogue = catalogue.Catalogue(
      tuple(titles), self._titles, np.zeros(len(titles), np.int64)
    )
    self._prompt = prompt
    self._max_history = max_history
    self._doctor = doctor
    self._instructions: Counter[tuple[str, str]] = Counter()
    self._unknown: Counter[str] = Counter()
    self._unread: list[str] = []
    self._repaired = 0
    self._longer = 0

  def instructions(self) -> list[tuple[str, str]]:
    """The (instruction, history lead) of all rows, most frequent first."""
    return [key for key, _ in self._instructions.most_common()]

  def rows(self, path: pathlib.Path) -> Iterator[Row]:
    """Yields the rows of one file."""
    if _is_csv(path):
      for number, fields in _csv_rows(path, self._doctor):
        yield self._csv_row(path, number, fields)
    else:
      for number, value in raw_files.json_rows(path):
        yield self._json_row(path, number, value)

  def report(self) -> None:
    """Tells what was odd."""
    doctor = self._doctor
    doctor.found(
      "history titles that the catalogue lacks (kept in the text only)",
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
    doctor.found(
      f"histories longer than data.max_history = {self._max_history}",
      self._longer,
    )
    for (instruction, lead), count in self._instructions.most_common(1):
      if (instruction, lead) != (
        self._prompt.instruction,
        self._prompt.history_lead,
      ):
        doctor.note(
          f"{count:,} rows have the instruction {instruction!r} and the"
          f" history lead {lead!r}; with these as config.prompt.instruction"
          " and config.prompt.history they would need no text of their own"
        )

  def _json_row(
    self, path: pathlib.Path, number: int, value: Mapping[str, Any]
  ) -> Row:
    where = f"{path}: row {number}"
    instruction = _text(where, value, "instruction")
    text = _text(where, value, "input")
    output = _text(where, value, "output")
    target = self._row_of(output.strip().removeprefix('"').removesuffix('"'))
    if target is None:
      target = self._row_of(output)
    if target is None:
      raise errors.UserError(
        f"{where}: output {output[:80]!r} found, a title of config.data"
        ".catalogue expected"
      )
    history = self._history(where, text)
    self._instructions[instruction, _lead(text)] += 1
    kept = [self._titles[row] for row in history[-self._max_history :]]
    same = (instruction, text) == (
      self._prompt.instruction,
      self._prompt.input_text(kept),
    )
    return self._row(history, target, None if same else (instruction, text))

  def _row(
    self,
    history: Sequence[int],
    target: int,
    text: tuple[str, str] | None,
    user: str = "",
    timestamp: int = 0,
  ) -> Row:
    self._longer += len(history) > self._max_history
    kept = tuple(history[-self._max_history :])
    return Row(kept, target, user, timestamp, text)

  def _history(self, where: str, text: str) -> list[int]:
    """Returns the known items of an input block."""
    body = text[len(_lead(text)) :].rstrip()
    if not body:
      return []
    if len(body) < 2 or body[-1] != '"':
      self._unread.append(where)
      return []
    pieces = body[1:-1].split(_BETWEEN)
    rows = [self._row_of(piece) for piece in pieces]
    if None in rows:
      rows = self._join(pieces)
    return [row for row in rows if row is not None]

  def _join(self, pieces: Sequence[str]) -> list[int | None]:
    """Looks pieces up, joining those of a title that has '", "' in it."""
    rows: list[int | None] = []
    start = 0
    while start < len(pieces):
      for stop in range(len(pieces), start, -1):
        title = _BETWEEN.join(pieces[start:stop])
        if (row := self._row_of(title)) is not None:
          break
      else:
        stop = start + 1
        self._unknown[pieces[start]] += 1
      rows.append(row)
      start = stop
    return rows

  def _row_of(self, title: str) -> int | None:
    row = self._catalogue.index_of_title(title)
    if row is None and not title.isascii():
      # movies.dat in UTF-8, read as ISO-8859-1 by the published notebook.
      try:
        repaired = title.encode("iso-8859-1").decode("utf-8")
      except UnicodeError:
        return None
      row = self._catalogue.index_of_title(repaired)
      self._repaired += row is not None
    return row

  def _csv_row(
    self, path: pathlib.Path, number: int, fields: Mapping[str, str]
  ) -> Row:
    where = f"{path}: line {number}"
    text = fields["item_ids"]
    try:
      ids = json.loads(text.replace("'", '"'))
      timestamp = int(fields.get("timestamp") or 0)
    except ValueError:
      raise errors.UserError(
        f"{where}: item_ids {text[:60]!r} and timestamp"
        f" {fields.get('timestamp')!r} found, a list of ids and whole seconds"
        " expected"
      ) from None
    if not isinstance(ids, list) or not ids:
      raise errors.UserError(
        f"{where}: item_ids {text[:60]!r} found, a list with the target last"
        " expected"
      )
    rows = [self._catalogue.index_of_external_id(str(key)) for key in ids]
    if rows[-1] is None:
      raise errors.UserError(
        f"{where}: target {ids[-1]!r} found, an id of config.data.catalogue"
        " expected"
      )
    for key, row in zip(ids, rows, strict=True):
      if row is None:
        self._unknown[str(key)] += 1
    history = [row for row in rows[:-1] if row is not None]
    user = fields.get("user_id") or ""
    return self._row(history, rows[-1], None, user, timestamp)


def _lead(text: str) -> str:
  """Returns what comes before the first title, or before the end's blanks."""
  first = text.find('"')
  return text[:first] if first >= 0 else text.removesuffix("\n ")


def _text(where: str, value: Mapping[str, Any], key: str) -> str:
  if not isinstance(value.get(key), str):
    found = ", ".join(value) or "no keys"
    if key in value:
      found = f"{key} {value[key]!r}"
    raise errors.UserError(f"{where}: {found} found, {key} as text expected")
  return value[key]


def _csv_rows(
  path: pathlib.Path, doctor: doctor_lib.Doctor
) -> Iterator[tuple[int, dict[str, str]]]:
  lines = (line for _, line in raw_files.lines(path, doctor))
  reader = csv.DictReader(lines)
  if "item_ids" not in (reader.fieldnames or ()):
    raise errors.UserError(
      f"{path}: line 1: columns {', '.join(reader.fieldnames or ())} found,"
      " item_ids expected"
    )
  for fields in reader:
    if None in fields or None in fields.values():
      raise errors.UserError(
        f"{path}: line {reader.line_num}: {len(reader.fieldnames)} fields"
        " expected"
      )
    yield reader.line_num, fields
