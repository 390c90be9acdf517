"""Title files: movies.dat, movies.csv, u.item, id2name.txt, id -> title JSON.

An id that occurs twice keeps its first place and its last title, as the
dictionaries of the published scripts do.
"""

import csv
import io
import json
import pathlib

from bigrec_jax import errors
from bigrec_jax.data.formats import raw_files
from bigrec_jax.data.prepared import doctor as doctor_lib


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
    encoding: `auto` (UTF-8 if all of the file is, else ISO-8859-1), `utf-8`
      or `iso-8859-1`.
    doctor: told about repeated ids and the encoding.

  Raises:
    UserError: a line is malformed, or there is no title at all.
  """
  text = _decode(path, encoding, doctor)
  suffix = path.name.removesuffix(".gz").rpartition(".")[2]
  parse = {
    "json": _from_json,
    "dat": _from_dat,
    "item": _from_bars,
    "csv": _from_csv,
  }
  pairs = parse.get(suffix, _from_tabs)(path, text)
  titles = dict(pairs)
  if not titles:
    raise errors.UserError(f"{path}: no titles found, one a line expected")
  doctor.found(
    "lines of the title file that give an id a second title (the last one"
    " counts)",
    len(pairs) - len(titles),
  )
  return titles


def _decode(
  path: pathlib.Path, encoding: str, doctor: doctor_lib.Doctor
) -> str:
  raw = raw_files.content(path)
  if encoding == "auto":
    try:
      text, encoding = raw.decode("utf-8-sig"), "UTF-8"
    except UnicodeDecodeError:
      text, encoding = raw.decode("iso-8859-1"), "ISO-8859-1"
    if not text.isascii():
      doctor.note(f"{path.name} was read as {encoding}")
  else:
    name = "utf-8-sig" if encoding == "utf-8" else encoding
    try:
      text = raw.decode(name)
    except UnicodeDecodeError as error:
      line = raw[: error.start].count(b"\n") + 1
      raise errors.UserError(
        f"{path}: line {line}: not {encoding}; config.data.encoding must be"
        " auto or iso-8859-1"
      ) from None
  # As Python's text files have it: no other character ends a line.
  return text.replace("\r\n", "\n").replace("\r", "\n")


def _from_json(path: pathlib.Path, text: str) -> list[tuple[str, str]]:
  try:
    value = json.loads(text)
  except json.JSONDecodeError as error:
    raise errors.UserError(
      f"{path}: line {error.lineno}: not valid JSON: {error.msg}"
    ) from None
  if not isinstance(value, dict):
    raise errors.UserError(
      f"{path}: {type(value).__name__} found, an object id -> title expected"
    )
  for key, title in value.items():
    if not isinstance(title, str):
      raise errors.UserError(
        f"{path}: key {key!r}: {title!r} found, a title expected"
      )
  repaired = raw_files.repaired
  return [(repaired(key), repaired(title)) for key, title in value.items()]


def _lines(text: str) -> list[tuple[int, str]]:
  numbered = enumerate(text.split("\n"), 1)
  return [(number, line) for number, line in numbered if line]


def _from_dat(path: pathlib.Path, text: str) -> list[tuple[str, str]]:
  return _split(path, text, "::", "genres")


def _from_bars(path: pathlib.Path, text: str) -> list[tuple[str, str]]:
  return _split(path, text, "|", "date")


def _split(
  path: pathlib.Path, text: str, between: str, third: str
) -> list[tuple[str, str]]:
  pairs = []
  for number, line in _lines(text):
    fields = line.split(between)
    if len(fields) < 2 or not fields[0]:
      raise errors.UserError(
        f"{path}: line {number}: {line[:60]!r} found,"
        f" {between.join(('id', 'title', third))} expected"
      )
    # A title with '::' in it ends there, as the published scripts have it.
    pairs.append((fields[0], fields[1]))
  return pairs


def _from_tabs(path: pathlib.Path, text: str) -> list[tuple[str, str]]:
  pairs = []
  for number, line in _lines(text):
    title, tab, key = line.rpartition("\t")
    if not tab or not key.strip():
      raise errors.UserError(
        f"{path}: line {number}: {line[:60]!r} found, title<TAB>id expected"
      )
    pairs.append((key.strip(), title))
  return pairs


def _from_csv(path: pathlib.Path, text: str) -> list[tuple[str, str]]:
  reader = csv.reader(io.StringIO(text, newline=""))
  header = next(reader, [])
  columns = [c for c in ("movieId", "item_id", "id") if c in header]
  if not columns or "title" not in header:
    raise errors.UserError(
      f"{path}: line 1: columns {', '.join(header)} found, movieId and title"
      " expected"
    )
  key, title = header.index(columns[0]), header.index("title")
  pairs = []
  for fields in reader:
    if not fields:
      continue
    if len(fields) != len(header) or not fields[key]:
      raise errors.UserError(
        f"{path}: line {reader.line_num}: {len(fields)} fields found,"
        f" {len(header)} expected"
      )
    pairs.append((fields[key], fields[title]))
  return pairs
