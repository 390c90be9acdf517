"""What else the items' file says of each item: data/attributes.jsonl.

Line n is the object of item n, so that a list of ten reads ten lines.
"""

import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bigrec_jax import errors
from bigrec_jax.data.formats import attributes as files, values


def write(path: pathlib.Path, objects: Iterable[str]) -> None:
  """Writes the file.

  Args:
    path: of it.
    objects: JSON of each item, in the order of the catalogue.
  """
  with open(path, "w", encoding="utf-8") as file:
    file.writelines(f"{own}\n" for own in objects)


class Attributes:
  """The file, read line by line when asked."""

  def __init__(self, path: pathlib.Path):
    """Finds the lines; where there is no file, no item has attributes."""
    self._path = path
    self._starts = np.zeros(1, np.int64)  # [I + 1]
    if path.exists():
      with open(path, "rb") as file:
        lengths = [len(line) for line in file]
      self._starts = np.cumsum([0, *lengths])

  def of(self, rows: Iterable[int]) -> list[dict[str, Any]]:
    """Returns the attributes of items.

    Raises:
      UserError: the file isn't what was written.
    """
    rows = list(rows)
    if len(self._starts) == 1:
      return [{} for _ in rows]
    found = []
    with open(self._path, "rb") as file:
      for row in rows:
        try:
          file.seek(self._starts[row])
          own = json.loads(file.read(self._starts[row + 1] - self._starts[row]))
        except (IndexError, ValueError) as error:
          raise errors.UserError(
            f"{self._path}: line {row + 1}: {error} found, the attributes of"
            f" item {row} expected; --mode=prepare writes them again"
          ) from None
        found.append(own)
    return found


def columns(
  path: pathlib.Path, count: int, names: Sequence[str], key: str
) -> list[list[list[str]]]:
  """Returns what columns say of every item, as texts.

  A text with bars, as MovieLens writes genres, is several, and so is a list;
  numbers are texts, too.

  Args:
    path: data/attributes.jsonl, maybe missing.
    count: I, of the catalogue's items.
    names: of the columns.
    key: of the configuration, that names them.

  Returns:
    [I][names] texts; none where an item's column is empty.

  Raises:
    UserError: no item has a column, or the file isn't what was written.
  """
  rows = Attributes(path).of(range(count)) if names else [{}] * count
  there = list(dict.fromkeys(name for row in rows for name in row))
  for name in names:
    if name not in there:
      known = f"one of {values.listed(there)} expected"
      if not there:
        known = (
          f"none expected: {path} has none; data.format=csv keeps the other"
          " columns of data.items there"
        )
      raise errors.UserError(f"config.{key}: {name!r} found, {known}")
  return [[_texts(row.get(name)) for name in names] for row in rows]


def _texts(value: Any) -> list[str]:
  parts = value if isinstance(value, list) else [value]
  texts = (files.split(str(part)) for part in parts if part is not None)
  return [" ".join(text.split()) for own in texts for text in own]
