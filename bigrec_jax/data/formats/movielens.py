"""Format `movielens`: a ratings file and a titles file.

Either GroupLens' older `ratings.dat` and `movies.dat` (fields separated by
`::`, no header), the later `ratings.csv` and `movies.csv` (header, columns by
name) or MovieLens-100K's `u.data` and `u.item` (tabs and bars), plain or .gz.
All ratings count, low ones too (BIGRec
data/movie/process.ipynb); users are numbered by their first line and ties in
time stay in file order.

The published code reads movies.dat as ISO-8859-1, which turns the accents of
the UTF-8 file that GroupLens and the repository ship into two wrong
characters each. Here it is read as what it is (encodings.py); `data.encoding`
= `iso-8859-1` gives the published titles.
"""

import math
import pathlib
from collections.abc import Iterator

from bigrec_jax import errors
from bigrec_jax.config import DataConfig
from bigrec_jax.data.formats import (
  csv_rows,
  interactions,
  mistakes,
  opened,
  raw_files,
  title_files,
  values,
)
from bigrec_jax.data.prepared import doctor as doctor_lib

_TITLES = {"dat": "movies.dat", "csv": "movies.csv", "data": "u.item"}
_COLUMNS = ("userId", "movieId", "rating", "timestamp")


def files(data: DataConfig) -> dict[str, pathlib.Path]:
  """Returns the raw files by role: `ratings` and `titles`.

  Raises:
    UserError: a file is missing.
  """
  directory = raw_files.given_directory("data.raw_dir", data.raw_dir)
  ratings = raw_files.find(data.raw_dir, "ratings.dat", "ratings.csv", "u.data")
  if ratings is None:
    raise errors.UserError(
      f"config.data.raw_dir: no ratings.dat, ratings.csv, u.data or .gz of them"
      f" in {directory}"
    )
  if data.catalogue:
    return {
      "ratings": ratings,
      "titles": raw_files.given("data.catalogue", data.catalogue),
    }
  name = _TITLES[_kind(ratings)]
  titles = raw_files.find(data.raw_dir, name)
  if titles is None:
    raise errors.UserError(
      f"config.data.raw_dir: {ratings.name} but no {name} or {name}.gz in"
      f" {directory}"
    )
  return {"ratings": ratings, "titles": titles}


def read(
  data: DataConfig, doctor: doctor_lib.Doctor
) -> interactions.Interactions:
  """Reads the ratings of known movies.

  Raises:
    UserError: a file is missing or a line is malformed.
  """
  found = files(data)
  path = found["ratings"]
  titles, log = mistakes.gather(
    lambda: title_files.read(found["titles"], data.encoding, doctor),
    lambda: _read_ratings(path, doctor),
  )
  rule = f"movies that {found['titles'].name} lacks"
  return log.finish(str(path), titles, rule, doctor)


def _read_ratings(
  path: pathlib.Path, doctor: doctor_lib.Doctor
) -> interactions.Log:
  log = interactions.Log()
  readers = {"dat": _dat_fields, "csv": _csv_fields, "data": _tab_fields}
  with mistakes.of(path) as wrong:
    for number, user, movie, rating, timestamp in readers[_kind(path)](
      path, doctor, wrong
    ):
      stars, seconds = values.rating(rating), values.seconds(timestamp)
      place = f"line {number}"
      if math.isnan(stars):
        problem = f"rating {values.shown(rating)} found, a number expected"
        wrong.add("ratings", place, problem)
      if seconds is None:
        wrong.add(
          "times",
          place,
          f"timestamp {values.shown(timestamp)} found, whole seconds expected"
          " (data.format=csv reads dates)",
        )
      else:
        log.add(user, movie, seconds, stars)
  return log


def is_utf8_dat(titles: pathlib.Path) -> bool:
  """Returns whether a movies.dat is UTF-8 with non-ASCII titles."""
  raw = opened.content(titles)
  if _kind(titles) != "dat" or raw.isascii():
    return False
  try:
    raw.decode("utf-8")
  except UnicodeDecodeError:
    return False
  return True


def _kind(path: pathlib.Path) -> str:
  """Returns dat, csv or data."""
  return path.name.removesuffix(".gz").rpartition(".")[2]


def _dat_fields(
  path: pathlib.Path, doctor: doctor_lib.Doctor, wrong: mistakes.Mistakes
) -> Iterator[tuple[int, str, str, str, str]]:
  return _split_fields(path, doctor, wrong, "::")


def _tab_fields(
  path: pathlib.Path, doctor: doctor_lib.Doctor, wrong: mistakes.Mistakes
) -> Iterator[tuple[int, str, str, str, str]]:
  return _split_fields(path, doctor, wrong, "\t")


def _split_fields(
  path: pathlib.Path,
  doctor: doctor_lib.Doctor,
  wrong: mistakes.Mistakes,
  between: str,
) -> Iterator[tuple[int, str, str, str, str]]:
  shown = between.replace("\t", "<TAB>")
  for number, line in raw_files.lines(path, doctor):
    fields = line.split(between)
    if len(fields) != 4:
      if not line.strip():
        continue
      wrong.add(
        "lines",
        f"line {number}",
        f"{line[:60]!r} found,"
        f" {shown.join(('user', 'movie', 'rating', 'timestamp'))} expected",
      )
      continue
    user, movie, rating, time = fields
    yield number, user, movie, rating, time


def _csv_fields(
  path: pathlib.Path, doctor: doctor_lib.Doctor, wrong: mistakes.Mistakes
) -> Iterator[tuple[int, str, str, str, str]]:
  lines = (f"{line}\n" for _, line in raw_files.lines(path, doctor))
  rows = csv_rows.Rows(path, lines)
  reader = iter(rows)
  _, names = next(reader, (1, []))
  header = [name.strip() for name in names]
  missing = [name for name in _COLUMNS if name not in header]
  if missing:
    raise errors.UserError(
      f"{path}: line 1: columns {values.listed(header)} found,"
      f" {', '.join(_COLUMNS)} with commas between expected (data.format=csv"
      " reads other names and separators)"
    )
  user, movie, rating, timestamp = (header.index(name) for name in _COLUMNS)
  rows.keys = (user, movie, rating, timestamp)
  width = len(header)
  for number, fields in reader:
    if len(fields) != width:
      problem = f"{len(fields)} fields found, {width} expected"
      wrong.add("lines", f"line {number}", problem)
      continue
    yield (
      number,
      fields[user],
      fields[movie],
      fields[rating],
      fields[timestamp],
    )
