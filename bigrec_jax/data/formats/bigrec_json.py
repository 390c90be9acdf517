"""Format `bigrec`: ready rows of instruction, input and output.

`data.train`, `data.valid` and `data.test` are JSON arrays (or JSON lines) of
`{"instruction", "input", "output"}`, plain or .gz, as BIGRec's notebooks write
and train.py reads; `data.catalogue` gives id and title of every item. They may
also be .csv files with columns `item_ids` (a list of external ids, the target
last) and, if known, `user_id` and `timestamp`. Without `data.valid` the last
ninth of the train rows by time becomes the valid split (csv only).

Without `data.train` there are no train rows: that is enough to evaluate
predictions of somebody else, but for their popularity.

Titles are looked up in the catalogue. Where the prompt makes the very text of
a row from its items, only the items are kept; other rows keep their text as
well. A target that isn't in the catalogue is an error, a history title that
isn't stays in the text alone.
"""

import dataclasses
import functools
import pathlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bigrec_jax import errors
from bigrec_jax.config import DataConfig
from bigrec_jax.data.formats import (
  csv_rows,
  mistakes,
  raw_files,
  title_files,
  titles_in_text,
  values,
)
from bigrec_jax.data.prepared import doctor as doctor_lib, splits
from bigrec_jax.data.text import prompts
from bigrec_jax.workdir import storage


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

  def train_popularity(self) -> tuple[np.ndarray, str]:
    """Returns [I] int64 counts of the train rows, and how they were made.

    Windows of one user overlap, so items of histories may only be counted
    where users are known: once per user and item.
    """
    train = self.windows["train"]
    line, num_items = train.timeline, len(self.titles)
    if not len(train):
      return np.zeros(num_items, np.int64), "unknown without train rows"
    if line.user.min() >= 0:
      pairs = np.unique(line.user * num_items + line.item)
      counts = np.bincount(pairs % num_items, minlength=num_items)
      return counts, "the number of users with the item in the train rows"
    counts = np.bincount(line.item[train.targets], minlength=num_items)
    return counts, "the number of train rows with the item as the target"


def files(data: DataConfig) -> dict[str, pathlib.Path]:
  """Returns the raw files by role: the splits and `titles`.

  Raises:
    UserError: a file is missing.
  """
  named = {"titles": ("data.catalogue", data.catalogue)}
  for split in splits.SPLITS:
    value = getattr(data, split)
    if split == "valid" and not value and _is_csv(data.train):
      continue
    if split == "train" and not value:
      continue
    named[split] = f"data.{split}", value
  return raw_files.given_all(named)


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
  parts = mistakes.gather(
    *(functools.partial(reader.rows, path) for path in found.values())
  )
  rows: dict[str, list[Row]] = dict(zip(found, parts, strict=True))
  if "train" not in rows:
    rows = {"train": [], **rows}
    doctor.note("data.train is empty: there are no train rows")
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
    sizes = np.array([len(row.history) + 1 for row in part], np.int64)
    ends = np.cumsum(sizes)
    user = [
      users.setdefault(row.user, len(users)) if row.user else -1 for row in part
    ]
    items = [item for row in part for item in (*row.history, row.target)]
    index = np.arange(sizes.sum()) - np.repeat(ends - sizes, sizes)
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
  """Turns rows of text or ids into catalogue rows and counts what is odd."""

  def __init__(
    self,
    titles: Mapping[str, str],
    prompt: prompts.Prompt,
    max_history: int,
    doctor: doctor_lib.Doctor,
  ):
    self._finder = titles_in_text.Finder(titles)
    self._prompt = prompt
    self._max_history = max_history
    self._doctor = doctor
    self._instructions: Counter[tuple[str, str]] = Counter()
    self._longer = 0

  def instructions(self) -> list[tuple[str, str]]:
    """The (instruction, history lead) of all rows, most frequent first."""
    return [key for key, _ in self._instructions.most_common()]

  def rows(self, path: pathlib.Path) -> list[Row]:
    """Returns the rows of one file.

    Raises:
      UserError: with all mistakes of the file.
    """
    found = []
    with mistakes.of(path) as wrong:
      for place, value in self._values(path, wrong):
        where = f"{path}: {place}"
        try:
          if _is_csv(path):
            found.append(self._csv_row(where, value))
          else:
            found.append(self._json_row(where, value))
        except errors.UserError as error:
          wrong.add("rows", place, str(error).removeprefix(f"{where}: "))
    return found

  def _values(
    self, path: pathlib.Path, wrong: mistakes.Mistakes
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (place, what stands there)."""
    if _is_csv(path):
      for number, fields in _csv_rows(path, self._doctor, wrong):
        yield f"line {number}", fields
    else:
      for number, value in raw_files.json_rows(path, self._doctor):
        yield f"row {number}", value

  def report(self) -> None:
    """Tells what was odd."""
    self._finder.report(self._doctor)
    self._doctor.found(
      f"histories longer than data.max_history = {self._max_history}",
      self._longer,
    )
    for (instruction, lead), count in self._instructions.most_common(1):
      if (instruction, lead) != (
        self._prompt.instruction,
        self._prompt.history_lead,
      ):
        self._doctor.note(
          f"{count:,} rows have the instruction {instruction!r} and the"
          f" history lead {lead!r}; with these as config.prompt.instruction"
          " and config.prompt.history they would need no text of their own"
        )

  def _json_row(self, where: str, value: Mapping[str, Any]) -> Row:
    instruction, text, output = (
      _text(where, value, key) for key in ("instruction", "input", "output")
    )
    target = self._finder.output(output)
    if target is None:
      raise errors.UserError(
        f"{where}: output {output[:80]!r} found, a title of config.data"
        ".catalogue expected"
      )
    self._instructions[instruction, titles_in_text.lead(text)] += 1
    row = self._row(self._finder.history(where, text), target)
    rendered = self._prompt.input_text(
      [self._finder.titles[item] for item in row.history]
    )
    if (instruction, text) == (self._prompt.instruction, rendered):
      return row
    return dataclasses.replace(row, text=(instruction, text))

  def _csv_row(self, where: str, fields: Mapping[str, str]) -> Row:
    text, time = fields["item_ids"], fields.get("timestamp")
    timestamp = values.seconds(time or 0)
    try:
      ids = storage.parse_json(text.replace("'", '"'), "item_ids")
    except errors.UserError:
      ids = None
    if ids is None or timestamp is None:
      raise errors.UserError(
        f"{where}: item_ids {text[:60]!r} and timestamp {time and time[:60]!r}"
        " found, a list of ids and whole seconds expected"
      )
    if not _is_ids(ids):
      raise errors.UserError(
        f"{where}: item_ids {text[:60]!r} found, a list with the target last"
        " expected"
      )
    *history, target = self._finder.ids(
      [raw_files.repaired(str(key)) for key in ids]
    )
    if target is None:
      raise errors.UserError(
        f"{where}: target {values.shown(ids[-1])} found, an id of"
        " config.data.catalogue expected"
      )
    known = [item for item in history if item is not None]
    return self._row(known, target, fields.get("user_id") or "", timestamp)

  def _row(
    self,
    history: Sequence[int],
    target: int,
    user: str = "",
    timestamp: int = 0,
  ) -> Row:
    self._longer += len(history) > self._max_history
    kept = tuple(history[-self._max_history :])
    return Row(kept, target, user, timestamp, None)


def _text(where: str, value: Mapping[str, Any], key: str) -> str:
  if not isinstance(value.get(key), str):
    found = values.listed(list(value)) or "no keys"
    if key in value:
      found = f"{key} {values.shown(value[key])}"
    raise errors.UserError(f"{where}: {found} found, {key} as text expected")
  return raw_files.repaired(value[key])


def _is_ids(value: Any) -> bool:
  """Returns whether a value is a list of numbers and texts, not empty."""
  if not isinstance(value, list) or not value:
    return False
  return not any(isinstance(key, bool) for key in value) and all(
    isinstance(key, (str, int, float)) for key in value
  )


def _csv_rows(
  path: pathlib.Path, doctor: doctor_lib.Doctor, wrong: mistakes.Mistakes
) -> Iterator[tuple[int, dict[str, str]]]:
  lines = (f"{line}\n" for _, line in raw_files.lines(path, doctor))
  rows = csv_rows.Rows(path, lines)
  reader = iter(rows)
  _, names = next(reader, (1, []))
  if "item_ids" not in names:
    raise errors.UserError(
      f"{path}: line 1: columns {values.listed(names)} found, item_ids expected"
    )
  rows.keys = [
    names.index(name)
    for name in ("item_ids", "user_id", "timestamp")
    if name in names
  ]
  for number, row in reader:
    if len(row) != len(names):
      problem = f"{len(row)} fields found, {len(names)} expected"
      wrong.add("lines", f"line {number}", problem)
      continue
    yield number, dict(zip(names, row, strict=True))
