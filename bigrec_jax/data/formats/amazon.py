"""Format `amazon`: `NAME_5.json` reviews and `meta_NAME.json`, plain or .gz.

One JSON object a line, as in the 2018 release. The rules are those of BIGRec
data/game/process.ipynb: an item without a title of two characters or more is
left out with its reviews, so are reviews without rating or time; of several
metadata lines of one item the last with a title counts. HTML entities and
blanks in titles are kept.

The catalogue is the reviewed items with a title, in the order of the
metadata. (The published numbering iterates a Python set and can't be
reproduced.) With `data.catalogue` set, its items and titles are used instead
of the metadata, all of them.
"""

import math
import pathlib
from typing import Any

from bigrec_jax import errors
from bigrec_jax.config import DataConfig
from bigrec_jax.data.formats import (
  interactions,
  mistakes,
  raw_files,
  title_files,
  values,
)
from bigrec_jax.data.prepared import doctor as doctor_lib

_SHORTEST_TITLE = 2


def files(data: DataConfig) -> dict[str, pathlib.Path]:
  """Returns the raw files by role: `reviews` and `titles`.

  Raises:
    UserError: a file is missing, or there are several review files.
  """
  directory = raw_files.given_directory("data.raw_dir", data.raw_dir)
  reviews = sorted(
    path
    for pattern in ("*_5.json", "*_5.json.gz")
    for path in directory.glob(pattern)
    if not path.name.startswith("meta_")
  )
  names = {path.name.removesuffix(".gz") for path in reviews}
  if len(names) != 1:
    found = ", ".join(sorted(names)) or "none"
    raise errors.UserError(
      f"config.data.raw_dir: review files in {directory}: {found}; exactly one"
      " *_5.json or *_5.json.gz expected"
    )
  if data.catalogue:
    titles = raw_files.given("data.catalogue", data.catalogue)
    return {"reviews": reviews[0], "titles": titles}
  name = f"meta_{names.pop().removesuffix('_5.json')}.json"
  metadata = raw_files.find(data.raw_dir, name)
  if metadata is None:
    raise errors.UserError(
      f"config.data.raw_dir: {reviews[0].name} but no {name} or {name}.gz in"
      f" {directory}"
    )
  return {"reviews": reviews[0], "titles": metadata}


def read(
  data: DataConfig, doctor: doctor_lib.Doctor
) -> interactions.Interactions:
  """Reads the reviews of items with a title.

  Raises:
    UserError: a file is missing or a line is malformed.
  """
  found = files(data)
  reviewed: set[str] = set()  # Of a damaged file, as far as it can be read.

  def read_titles() -> dict[str, str]:
    if data.catalogue:
      return title_files.read(found["titles"], data.encoding, doctor)
    return _read_meta(found["titles"], reviewed, doctor)

  log, titles = mistakes.gather(
    lambda: _read_reviews(found["reviews"], doctor, reviewed), read_titles
  )
  return log.finish(
    str(found["reviews"]), titles, "items without a title", doctor
  )


def _read_reviews(
  path: pathlib.Path, doctor: doctor_lib.Doctor, reviewed: set[str]
) -> interactions.Log:
  """Returns the reviews with rating and time; adds their items to a set."""
  log, incomplete, unrated = interactions.Log(), [], 0
  with mistakes.of(path) as wrong:
    for number, review in raw_files.json_lines(path, doctor, wrong):
      user = _text(wrong, number, review, "reviewerID")
      item = _text(wrong, number, review, "asin")
      if not user or not item:
        continue
      reviewed.add(item)
      if "overall" not in review or "unixReviewTime" not in review:
        incomplete.append(f"line {number}")
        continue
      given = review["unixReviewTime"]
      seconds = values.seconds(given)
      if seconds is None:
        wrong.add(
          "times",
          f"line {number}",
          f"unixReviewTime {values.shown(given)} found, whole seconds expected",
        )
        continue
      # BIGRec needs no rating, so a review without one counts.
      stars = values.rating(review["overall"])
      unrated += math.isnan(stars)
      log.add(user, item, seconds, stars)
  doctor.removed(
    "reviews without overall or unixReviewTime",
    "interactions",
    len(log) + len(incomplete),
    len(log),
    incomplete,
  )
  doctor.found("reviews whose overall isn't a number", unrated)
  return log


def _text(
  wrong: mistakes.Mistakes, number: int, value: dict[str, Any], key: str
) -> str:
  """Returns a text, "" where there is none, which is noted."""
  text = value.get(key)
  if not isinstance(text, str) or not text:
    shown = values.shown(text) if key in value else f"no {key}"
    wrong.add(key, f"line {number}", f"{shown} found, {key} as text expected")
    return ""
  return raw_files.repaired(text)


def _read_meta(
  path: pathlib.Path, reviewed: set[str], doctor: doctor_lib.Doctor
) -> dict[str, str]:
  """Returns the titles of reviewed items in the order of the metadata."""
  titles: dict[str, str] = {}
  seen: set[str] = set()
  repeated = 0
  with mistakes.of(path) as wrong:
    for number, meta in raw_files.json_lines(path, doctor, wrong):
      item = _text(wrong, number, meta, "asin")
      if item not in reviewed:
        continue
      repeated += item in seen
      seen.add(item)
      title = meta.get("title", "")
      if isinstance(title, str) and len(title) >= _SHORTEST_TITLE:
        titles[item] = raw_files.repaired(title)
  doctor.found("reviewed items that the metadata lack", len(reviewed - seen))
  doctor.found("metadata lines of an item that has one already", repeated)
  doctor.removed(
    f"title missing or shorter than {_SHORTEST_TITLE} characters",
    "items",
    len(reviewed),
    len(titles),
    sorted(reviewed - set(titles)),
  )
  if not titles:
    raise errors.UserError(
      f"{path}: no reviewed item has a title, at least one expected"
    )
  return titles
