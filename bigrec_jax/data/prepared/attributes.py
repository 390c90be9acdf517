"""What else the items' file says of each item: data/attributes.jsonl.

Line n is the object of item n, so that a list of ten reads ten lines.
"""

import json
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from bigrec_jax import errors


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
