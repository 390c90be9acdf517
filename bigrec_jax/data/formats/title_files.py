"""Title files: movies.dat, movies.csv, u.item, id2name.txt, id -> title JSON.

An id that occurs twice keeps its first place and its last title, as the
dictionaries of the published scripts do.
"""

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

_Pairs = Iterator[tuple[str, str]]  # (external id, title)


def read(
  path: pathlib.Path, encoding: str, doctor: doctor_lib.Doctor
) -> dict[str, str]:
  """Reads titles by external id, in the order of the file.

  The kind of file is told by its name without .gz: `.json` an object id ->
  title; `.dat` lines `id::title::anything`; `.item` lines `id|title|anything`
  (MovieLens-100K); `.csv` with columns movieId (or
  item_id, id) and title; everything else lines `title<TAB>id`, split at the
  last tab (BIGRec's id2name.txt).

  Args:
    path: the file, plain or .gz.
    encoding: one of `encodings.NAMES`.
    doctor: told about repeated ids and the encoding.

  Raises:
    UserError: a line is malformed, or there is no title at all.
  """
  suffix = path.name.removesuffix(".gz").rpartition(".")[2]
  with mistakes.of(path) as wrong:
    if suffix == "json":
      titles, count = _collect(_from_json(path, encoding, doctor, wrong))
    else:
      parse = {"dat": _from_dat, "item": _from_bars, "csv": _from_csv}.get(
        suffix, _from_tabs
      )
      titles, count = raw_files.decoded(
        path,
        encoding,
        doctor,
        lambda lines: _collect(parse(wrong, path, lines)),
      )
  if not titles:
    raise errors.UserError(f"{path}: no titles found, one a line expected")
  doctor.found(
    "lines of the title file that give an id a second title (the last one"
    " counts)",
    count - len(titles),
  )
  return titles


def _collect(pairs: _Pairs) -> tuple[dict[str, str], int]:
  """Returns the titles by id, and of how many lines."""
  titles: dict[str, str] = {}
  count = 0
  for key, title in pairs:
    titles[key] = title
    count += 1
  return titles, count


def _from_json(
  path: pathlib.Path,
  encoding: str,
  doctor: doctor_lib.Doctor,
  wrong: mistakes.Mistakes,
) -> _Pairs:
  file = encodings.Text(path, encoding)
  text = file.whole()
  file.tell(doctor, of_utf8=True)
  value = storage.parse_json(text, str(path))
  if not isinstance(value, dict):
    raise errors.UserError(
      f"{path}: {type(value).__name__} found, an object id -> title expected"
    )
  for key, title in value.items():
    if not isinstance(title, str):
      problem = str(fields.refuse("", title, "a title")).removeprefix(": ")
      wrong.add("titles", f"key {values.shown(key)}", problem)
      continue
    yield raw_files.repaired(key), raw_files.repaired(title)


def _numbered(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
  """Yields (number, line without its end) of lines that aren't empty."""
  for number, line in enumerate(lines, 1):
    line = line.removesuffix("\n")
    if line:
      yield number, line


def _from_dat(
  wrong: mistakes.Mistakes, path: pathlib.Path, lines: Iterable[str]
) -> _Pairs:
  return _split(wrong, lines, "::", "genres")


def _from_bars(
  wrong: mistakes.Mistakes, path: pathlib.Path, lines: Iterable[str]
) -> _Pairs:
  return _split(wrong, lines, "|", "date")


def _split(
  wrong: mistakes.Mistakes, lines: Iterable[str], between: str, third: str
) -> _Pairs:
  for number, line in _numbered(lines):
    fields = line.split(between)
    if len(fields) < 2 or not fields[0]:
      shape = between.join(("id", "title", third))
      problem = f"{line[:60]!r} found, {shape} expected"
      wrong.add("lines", f"line {number}", problem)
      continue
    # A title with '::' in it ends there, as the published scripts have it.
    yield fields[0], fields[1]


def _from_tabs(
  wrong: mistakes.Mistakes, path: pathlib.Path, lines: Iterable[str]
) -> _Pairs:
  for number, line in _numbered(lines):
    title, tab, key = line.rpartition("\t")
    if not tab or not key.strip():
      problem = f"{line[:60]!r} found, title<TAB>id expected"
      wrong.add("lines", f"line {number}", problem)
      continue
    yield key.strip(), title


def _from_csv(
  wrong: mistakes.Mistakes, path: pathlib.Path, lines: Iterable[str]
) -> _Pairs:
  rows = csv_rows.Rows(path, lines)
  reader = iter(rows)
  _, header = next(reader, (1, []))
  columns = [c for c in ("movieId", "item_id", "id") if c in header]
  if not columns or "title" not in header:
    raise errors.UserError(
      f"{path}: line 1: columns {values.listed(header)} found, movieId and"
      " title with commas between expected"
    )
  key, title = header.index(columns[0]), header.index("title")
  rows.keys = (key,)
  for number, row in reader:
    if len(row) != len(header) or not row[key]:
      wrong.add(
        "lines",
        f"line {number}",
        f"{len(row)} fields found, {len(header)} with {columns[0]} expected",
      )
      continue
    yield row[key], row[title]
