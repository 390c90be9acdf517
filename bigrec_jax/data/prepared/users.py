"""The users of the data by their own ids: data/users.jsonl.

A line a user, [id, [catalogue rows, oldest first]], in the order of numbers:
whoever asks for recommendations for users of the data needs no more.
"""

import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bigrec_jax import errors

if TYPE_CHECKING:
  from bigrec_jax.data.prepared import splits

_MOST = 1000  # Newest items of a user that are kept.


def write(
  path: pathlib.Path, names: Sequence[str], line: "splits.Timeline"
) -> None:
  """Writes the file.

  Args:
    path: of it.
    names: external id by user number.
    line: all interactions, by user and time.
  """
  starts = np.flatnonzero(line.index == 0)
  ends = starts + line.length[starts]
  with open(path, "w", encoding="utf-8") as file:
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
      items = line.item[max(start, end - _MOST) : end].tolist()
      row = [names[line.user[start]], items]
      file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read(path: pathlib.Path, num_items: int) -> Iterator[tuple[str, list[int]]]:
  """Yields (external id, catalogue rows, oldest first) of each user.

  Args:
    path: of the file.
    num_items: of the catalogue.

  Raises:
    UserError: it is missing or damaged.
  """
  try:
    file = open(path, encoding="utf-8")
  except FileNotFoundError:
    raise errors.UserError(
      f"{path}: not found: the data's format keeps no ids of users, or the data"
      " were prepared before they were kept (--mode=prepare with"
      " another --workdir writes them); config.recommend.histories has"
      " histories of anybody"
    ) from None
  with file:
    for number, text in enumerate(file, 1):
      try:
        name, items = json.loads(text)
        if not isinstance(name, str) or not all(
          type(item) is int and 0 <= item < num_items for item in items
        ):
          raise ValueError("other values")
      except (ValueError, TypeError) as error:
        raise errors.UserError(
          f"{path}: line {number}: {error} found, [id, [catalogue rows]]"
          " expected; --mode=prepare writes it again"
        ) from None
      yield name, items
