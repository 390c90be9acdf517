"""Items in groups, for comparing how often each group is recommended.

Letters: I items, G groups.
"""

import csv
import dataclasses
import io
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from bigrec_jax import errors
from bigrec_jax.data.formats import (
  attributes as files,
  encodings,
  raw_files,
)
from bigrec_jax.data.prepared import attributes, doctor
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.workdir import fields, storage

POPULARITY, GIVEN = "popularity", "category"
FIFTHS = ("rarest fifth", "2nd", "3rd", "4th", "most popular fifth")
_MOST_GROUPS = 1000  # Of a column; more are prices or words.


@dataclasses.dataclass(frozen=True, eq=False)
class Grouping:
  """One way to put items into groups; an item may be in several, or in none.

  Attributes:
    name: popularity, category, or a column's.
    groups: names [G].
    members: [I, G] bool.
  """

  name: str
  groups: Sequence[str]
  members: np.ndarray


def by_popularity(counts: np.ndarray) -> Grouping:
  """Returns fifths of the catalogue by train count, the rarest first.

  An item is in the fifth of the share of items that have fewer; so items of
  equal count are in one group, and a group may be empty.

  Args:
    counts: [I] interactions in train.
  """
  rarer = np.searchsorted(np.sort(counts), counts, side="left")
  place = rarer * len(FIFTHS) // len(counts)
  return Grouping(POPULARITY, FIFTHS, place[:, None] == np.arange(len(FIFTHS)))


def of_file(given: str, catalogue: Catalogue) -> Grouping:
  """Returns the groups that a file names.

  Args:
    given: `ground.item_groups`: JSON, external id -> a group or a list of
      them; or MovieLens' movies.dat or movies.csv, whose genres are groups.
    catalogue: the items; those that the file lacks are in no group.

  Raises:
    UserError: there is no such file, it is something else, or it names no item
      of the catalogue.
  """
  path = raw_files.given("ground.item_groups", given)
  found = _json(path) if path.suffix == ".json" else _movies(path)
  rows = [found.get(own, ()) for own in catalogue.external_ids]
  if not any(rows):
    raise errors.UserError(
      f"{path}: no group of the catalogue's items found, e.g. of id"
      f" {catalogue.external_ids[0]!r}; some expected"
    )
  return _grouping(GIVEN, rows)


def of_columns(
  names: Sequence[str], path: pathlib.Path, count: int
) -> list[Grouping]:
  """Returns the groups that columns of the items' file make.

  Args:
    names: of the columns.
    path: data/attributes.jsonl, maybe missing.
    count: I, of the catalogue's items.

  Raises:
    UserError: no item has a column, or it has too many values for groups.
  """
  key = "ground.item_columns"
  rows = attributes.columns(path, count, names, key)
  found = []
  for place, name in enumerate(names):
    own = [row[place] for row in rows]
    different = len({group for groups in own for group in groups})
    if different > _MOST_GROUPS:
      raise errors.UserError(
        f"config.{key}: {name!r} found, which has {different:,} different"
        f" values; at most {_MOST_GROUPS:,} expected of a column of groups"
      )
    found.append(_grouping(name, own))
  return found


def _grouping(name: str, rows: Sequence[Sequence[str]]) -> Grouping:
  """Returns the groups that items are in, by name."""
  groups = sorted({group for own in rows for group in own})
  place = {group: n for n, group in enumerate(groups)}
  members = np.zeros((len(rows), len(groups)), bool)
  for line, own in zip(members, rows, strict=True):
    line[[place[group] for group in own]] = True
  return Grouping(name, groups, members)


def _json(path: pathlib.Path) -> Mapping[str, Sequence[str]]:
  return fields.mapping(_names)(storage.read_json(path), f"{path}:")


def _names(value: object, where: str) -> Sequence[str]:
  if isinstance(value, str):
    return files.split(value)
  return [name for name in fields.sequence(fields.text)(value, where) if name]


def _movies(path: pathlib.Path) -> Mapping[str, Sequence[str]]:
  """Reads id, title and genres of MovieLens."""
  # Titles may be of any encoding; ids and genres are ASCII in all of them.
  file = encodings.Text(path)
  content = file.whole()
  file.tell(doctor.Aloud(path))
  if "::" in content.partition("\n")[0]:
    rows = [line.split("::") for line in content.splitlines()]
  else:
    rows = list(csv.reader(io.StringIO(content)))[1:]
  for number, row in enumerate(rows, 1):
    if len(row) < 3:
      raise errors.UserError(
        f"{path}: row {number}: {len(row)} fields found, id, title and genres"
        " as in MovieLens' movies.dat or movies.csv expected (or a .json file)"
      )
  return {row[0].strip(): files.split(row[-1]) for row in rows}
