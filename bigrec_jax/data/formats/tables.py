"""Tables of any kind as rows: CSV with any separator, JSON lines, Parquet.

A look at the beginning of a file says what it is, which columns it has and
whether its first line names them (`peek`); `read` then goes through the
columns that are asked for.
"""

import ast
import contextlib
import csv
import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from bigrec_jax import errors
from bigrec_jax.data.formats import (
  csv_rows,
  encodings,
  mistakes,
  opened,
  raw_files,
  values,
)
from bigrec_jax.data.prepared import doctor as doctor_lib
from bigrec_jax.workdir import storage

T = TypeVar("T")
Row = tuple[int, Sequence[Any]]  # Number of the line or row, values asked for.

_SEPARATORS = ("::", ",", ";", "\t", "|")
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", "::": "::"}
_PEEKED = 100  # Lines, or objects.
_JSON = (".json", ".jsonl", ".ndjson")


@dataclasses.dataclass(frozen=True)
class Peek:
  """What the beginning of a file shows.

  Attributes:
    path: the file.
    kind: csv, json or parquet.
    columns: names; of a file whose first line has none `column 1`, ...
    sample: the first rows, with the header if that is one.
    separator: of csv.
    has_header: whether the first line of csv has names.
  """

  path: pathlib.Path
  kind: str
  columns: Sequence[str]
  sample: Sequence[Sequence[Any]]
  separator: str = ""
  has_header: bool = True

  @property
  def unit(self) -> str:
    """What rows are counted in."""
    return "row" if self.kind == "parquet" else "line"

  @property
  def told(self) -> str:
    """The kind of file, for people."""
    if self.kind != "csv":
      return {"json": "JSON objects", "parquet": "Parquet"}[self.kind]
    header = "" if self.has_header else ", no header"
    return f"{_NAMES[self.separator]}{header}"

  def without_header(self) -> "Peek":
    """Returns the same file with its first line as a row."""
    names = [f"column {n + 1}" for n in range(len(self.columns))]
    return dataclasses.replace(self, columns=names, has_header=False)


def peek(path: pathlib.Path, encoding: str = encodings.AUTO) -> Peek:
  """Looks at the beginning of a file; takes the first line for a header.

  Args:
    path: the file.
    encoding: of csv.

  Raises:
    UserError: it is empty, or damaged.
  """
  name = path.name.removesuffix(".gz").lower()
  if name.endswith((".parquet", ".pq")):
    with _parquet(path) as file:
      return Peek(path, "parquet", list(file.schema_arrow.names), [])
  if name.endswith(_JSON):
    return _peek_objects(path)
  text = encodings.Text(path, encoding)
  lines = list(itertools.islice(text.lines(newline=""), _PEEKED))
  if not any(line.strip() for line in lines):
    raise errors.UserError(f"{path}: empty, a table with a header expected")
  separator = _separator(lines)
  rows = list(_split(lines, separator))
  return Peek(path, "csv", [n.strip() for n in rows[0]], rows, separator)


def read(
  found: Peek,
  places: Sequence[int],
  keys: Sequence[int],
  encoding: str,
  doctor: doctor_lib.Doctor,
  wrong: mistakes.Mistakes,
  use: Callable[[Iterator[Row]], T],
) -> T:
  """Returns what `use` makes of the rows.

  Args:
    found: of the file.
    places: of the columns that are asked for.
    keys: those among all columns whose fields hold no line breaks.
    encoding: of csv, one of `encodings.NAMES`.
    doctor: told what was left out.
    wrong: where lines are noted that aren't objects, of such a file.
    use: gets (number, values in the order of `places`).

  Raises:
    UserError: the file is damaged.
  """
  if found.kind == "parquet":
    return use(_parquet_rows(found, places))
  if found.kind == "json":
    return use(_object_rows(found, places, doctor, wrong))
  seen = _Seen()

  def of_lines(lines: Iterable[str]) -> T:
    return use(_csv_rows(found, lines, places, keys, seen))

  result = raw_files.decoded(found.path, encoding, doctor, of_lines, newline="")
  doctor.removed(
    f"rows of {found.path.name} without {len(found.columns)} fields",
    "rows",
    seen.total,
    seen.total - len(seen.bad),
    seen.bad,
    keep="quote fields that hold the separator",
  )
  return result


@dataclasses.dataclass
class _Seen:
  """What was seen of a file.

  Attributes:
    total: rows.
    bad: places of those with another number of fields than the header.
  """

  total: int = 0
  bad: list[str] = dataclasses.field(default_factory=list)


def _csv_rows(
  found: Peek,
  lines: Iterable[str],
  places: Sequence[int],
  keys: Sequence[int],
  seen: _Seen,
) -> Iterator[Row]:
  width = len(found.columns)
  reader: Iterator[tuple[int, list[str]]]
  if found.separator == "::":
    reader = _of_text(lines, found.separator)
  else:
    rows = csv_rows.Rows(found.path, lines, found.separator)
    reader = iter(rows)
  if found.has_header:
    next(reader, None)
  if found.separator != "::":
    rows.keys = keys
  for number, row in reader:
    seen.total += 1
    if len(row) != width:
      seen.bad.append(f"line {number}")
      continue
    yield number, [row[place] for place in places]


def _of_text(
  lines: Iterable[str], separator: str
) -> Iterator[tuple[int, list[str]]]:
  for number, line in enumerate(lines, 1):
    line = line.rstrip("\r\n")
    if line:
      yield number, line.split(separator)


def _split(lines: Sequence[str], separator: str) -> Iterator[list[str]]:
  """Yields the rows of the first lines; the last may be cut."""
  if separator == "::":
    yield from (row for _, row in _of_text(lines, separator))
    return
  try:
    yield from (row for row in csv.reader(lines, delimiter=separator) if row)
  except csv.Error:
    return


def _separator(lines: Sequence[str]) -> str:
  """Returns what most rows have as often as the first one."""

  def fits(separator: str) -> tuple[float, int]:
    widths = [len(row) for row in _split(lines, separator)]
    if not widths or widths[0] < 2:
      return 0.0, 0
    return sum(w == widths[0] for w in widths) / len(widths), widths[0]

  return max(_SEPARATORS, key=fits)


def _objects(
  path: pathlib.Path, doctor: doctor_lib.Doctor, wrong: mistakes.Mistakes
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields (number, object) of JSON lines, Python's own, or an array."""
  with encodings.Text(path).stream(opened.Place(path, "row")) as file:
    first = file.read(_PEEKED)
  if first.lstrip().startswith("["):
    yield from raw_files.json_rows(path, doctor)
    return
  for number, line in raw_files.lines(path, doctor):
    if not line.strip():
      continue
    place = f"line {number}"
    try:
      value = _literal(line, place)
    except errors.UserError as error:
      wrong.add("lines", place, str(error).removeprefix(f"{place}: "))
      continue
    if isinstance(value, dict):
      yield number, value
    else:
      kind = type(value).__name__
      wrong.add("lines", place, f"{kind} found, an object expected")


def _literal(line: str, where: str) -> Any:
  """Returns the value of a line: JSON, or a Python literal (Steam, 2014)."""
  if not line.startswith(("{'", "{u'", '{u"')):
    return storage.parse_json(line, where)
  try:
    return ast.literal_eval(line)
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    raise errors.UserError(
      f"{where}: {values.shown(line)} found, an object as JSON or Python writes"
      " it expected"
    ) from None


def _peek_objects(path: pathlib.Path) -> Peek:
  names: dict[str, None] = {}
  sample = []
  wrong = mistakes.Mistakes(path)
  rows = _objects(path, doctor_lib.Doctor("peek"), wrong)
  for _, row in itertools.islice(rows, _PEEKED):
    sample.append(row)
    names.update(dict.fromkeys(row))
  if len(wrong) and not sample:  # Else to read all of it says it.
    raise errors.UserError(str(wrong))
  if not sample:
    raise errors.UserError(f"{path}: empty, an object a line expected")
  columns = list(names)
  return Peek(
    path, "json", columns, [[row.get(n) for n in columns] for row in sample]
  )


def _object_rows(
  found: Peek,
  places: Sequence[int],
  doctor: doctor_lib.Doctor,
  wrong: mistakes.Mistakes,
) -> Iterator[Row]:
  names = [found.columns[place] for place in places]
  for number, row in _objects(found.path, doctor, wrong):
    yield number, [_clean(row.get(name)) for name in names]


def _clean(value: Any) -> Any:
  return raw_files.repaired(value) if isinstance(value, str) else value


@contextlib.contextmanager
def _parquet(path: pathlib.Path) -> Iterator[Any]:
  """Yields an open Parquet file.

  Raises:
    UserError: it is none, or damaged.
  """
  import pyarrow
  from pyarrow import parquet

  try:
    with parquet.ParquetFile(path) as file:
      yield file
  except (pyarrow.ArrowException, OSError) as error:
    raise errors.UserError(
      f"{path}: {errors.one_line(str(error))[:200]}, a Parquet file expected"
    ) from None


def _parquet_rows(found: Peek, places: Sequence[int]) -> Iterator[Row]:
  names = [found.columns[place] for place in places]
  number = 0
  with _parquet(found.path) as file:
    for batch in file.iter_batches(columns=list(dict.fromkeys(names))):
      columns = {name: batch.column(name).to_pylist() for name in set(names)}
      for row in zip(*(columns[name] for name in names), strict=True):
        number += 1
        yield number, [_clean(value) for value in row]
