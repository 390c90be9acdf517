"""What is known of items beside their titles: genres, brands, categories."""

import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from bigrec_jax import errors
from bigrec_jax.data.formats import csv_rows, opened, raw_files, values
from bigrec_jax.data.prepared import doctor as doctor_lib
from bigrec_jax.workdir import fields, storage

BETWEEN = "|"  # MovieLens writes genres so.
NONE = ("", "(no genres listed)")
_Pairs = Iterator[tuple[str, str]]  # (external id, text)


def read(path: pathlib.Path) -> dict[str, str]:
  """Returns the attributes of items as text, by external id.

  The kind of file is told by its name without .gz: `.json` an object id -> a
  text or a list of texts; `.csv` the id in the first column and the attributes
  in the last (MovieLens' movies.csv); everything else lines
  `id::anything::attributes` (movies.dat). Bars between attributes become
  commas. Items without attributes are left out.

  Args:
    path: the file, plain or .gz.

  Raises:
    UserError: a line is malformed, or no item has attributes.
  """
  suffix = path.name.removesuffix(".gz").rpartition(".")[2]
  if suffix == "json":
    pairs = list(_from_json(path))
  else:
    parse = _from_csv if suffix == "csv" else _from_dat
    notes = doctor_lib.Doctor("attributes")  # Of an encoding; nobody reads it.
    pairs = raw_files.decoded(
      path, "auto", notes, lambda lines: list(parse(path, lines))
    )
  found = {}
  for key, text in pairs:
    text = ", ".join(part.strip() for part in text.split(BETWEEN))
    if text not in NONE:
      found[raw_files.repaired(key)] = raw_files.repaired(text)
  if not found:
    raise errors.UserError(
      f"{path}: no attributes of an item found, some expected"
    )
  return found


def _from_json(path: pathlib.Path) -> _Pairs:
  try:
    text = opened.content(path).decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise errors.UserError(f"{path}: {error}, UTF-8 expected") from None
  value = storage.parse_json(text, str(path))
  if not isinstance(value, dict):
    raise errors.UserError(
      f"{path}: {type(value).__name__} found, an object id -> text or texts"
      " expected"
    )
  for key, own in value.items():
    yield key, _text(f"{path}: key {values.shown(key)}", own)


def _text(where: str, value: Any) -> str:
  """Returns a text, or several with bars between."""
  parts = value if isinstance(value, list) else [value]
  if not all(isinstance(part, str) for part in parts):
    raise fields.refuse(where, value, "a text or a list of texts")
  return BETWEEN.join(parts)


def _from_csv(path: pathlib.Path, lines: Iterable[str]) -> _Pairs:
  rows = csv_rows.Rows(path, lines)
  rows.keys = (0,)
  reader = iter(rows)
  _, header = next(reader, (1, []))
  if len(header) < 2:
    raise errors.UserError(
      f"{path}: line 1: columns {values.listed(header)} found, ids in the first"
      " and attributes in the last expected"
    )
  for number, row in reader:
    if len(row) != len(header) or not row[0]:
      raise errors.UserError(
        f"{path}: line {number}: {len(row)} fields found, {len(header)} with an"
        " id expected"
      )
    yield row[0], row[-1]


def _from_dat(path: pathlib.Path, lines: Iterable[str]) -> _Pairs:
  for number, line in enumerate(lines, 1):
    line = line.rstrip("\n")
    key, between, rest = line.partition("::")
    if not line.strip():
      continue
    if not (key and between):
      raise errors.UserError(
        f"{path}: line {number}: {line[:60]!r} found, id::title::attributes"
        " expected"
      )
    yield key, rest.rpartition("::")[2]
