"""What is known of items beside their titles: genres, brands, categories."""

import pathlib
from collections.abc import Iterable, Iterator

from bigrec_jax import errors
from bigrec_jax.data.formats import (
  csv_rows,
  encodings,
  mistakes,
  raw_files,
  values,
)
from bigrec_jax.data.prepared import doctor as doctor_lib
from bigrec_jax.workdir import fields, storage

_BETWEEN = "|"  # MovieLens writes genres so.
_NONE = ("", "(no genres listed)")
_Pairs = Iterator[tuple[str, str]]  # (external id, text)


def split(text: str) -> list[str]:
  """Returns what a text with bars names, each without blanks around."""
  parts = (part.strip() for part in text.split(_BETWEEN))
  return [part for part in parts if part not in _NONE]


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
  with mistakes.of(path) as wrong:
    if suffix == "json":
      pairs = list(_from_json(path, wrong))
    else:
      parse = _from_csv if suffix == "csv" else _from_dat
      pairs = raw_files.decoded(
        path,
        "auto",
        doctor_lib.Aloud(path),
        lambda lines: list(parse(path, lines, wrong)),
      )
  found = {}
  for key, text in pairs:
    text = ", ".join(part.strip() for part in text.split(_BETWEEN))
    if text not in _NONE:
      found[raw_files.repaired(key)] = raw_files.repaired(text)
  if not found:
    raise errors.UserError(
      f"{path}: no attributes of an item found, some expected"
    )
  return found


def _from_json(path: pathlib.Path, wrong: mistakes.Mistakes) -> _Pairs:
  file = encodings.Text(path)
  text = file.whole()
  file.tell(doctor_lib.Aloud(path))
  value = storage.parse_json(text, str(path))
  if not isinstance(value, dict):
    raise errors.UserError(
      f"{path}: {type(value).__name__} found, an object id -> text or texts"
      " expected"
    )
  for key, own in value.items():
    parts = own if isinstance(own, list) else [own]
    if all(isinstance(part, str) for part in parts):
      yield key, _BETWEEN.join(parts)
      continue
    problem = str(fields.refuse("", own, "a text or a list of texts"))
    place = f"key {values.shown(key)}"
    wrong.add("texts", place, problem.removeprefix(": "))


def _from_csv(
  path: pathlib.Path, lines: Iterable[str], wrong: mistakes.Mistakes
) -> _Pairs:
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
      problem = f"{len(row)} fields found, {len(header)} with an id expected"
      wrong.add("lines", f"line {number}", problem)
      continue
    yield row[0], row[-1]


def _from_dat(
  path: pathlib.Path, lines: Iterable[str], wrong: mistakes.Mistakes
) -> _Pairs:
  for number, line in enumerate(lines, 1):
    line = line.rstrip("\n")
    key, between, rest = line.partition("::")
    if not line.strip():
      continue
    if not (key and between):
      problem = f"{line[:60]!r} found, id::title::attributes expected"
      wrong.add("lines", f"line {number}", problem)
      continue
    yield key, rest.rpartition("::")[2]
