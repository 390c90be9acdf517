"""Format `sequences`: one user a line, `user item item ...` in time order.

`data.train` names the file (plain or .gz). One interaction a line, `user item`
in time order, as SASRec's files have it, is read too. Leave-one-out: a user's
last item is the test target, the one before it the valid target, all before
those are train (RUCAIBox/CIKM2020-S3Rec data_utils.py). Titles come from
`data.catalogue`; without it item 7 is called "item 7" and the catalogue is
all items of the file, ordered by number (by text if some id isn't a number).
"""

import pathlib
from collections.abc import Callable
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

_FEWEST = 3  # Items: one to learn from, one for valid, one for test.


def files(data: DataConfig) -> dict[str, pathlib.Path]:
  """Returns the raw files by role: `sequences` and maybe `titles`.

  Raises:
    UserError: a file is missing.
  """
  named = {"sequences": ("data.train", data.train)}
  if data.catalogue:
    named["titles"] = "data.catalogue", data.catalogue
  return raw_files.given_all(named)


def read(
  data: DataConfig, doctor: doctor_lib.Doctor
) -> interactions.Interactions:
  """Reads the sequences; timestamps count a user's items from 0.

  Raises:
    UserError: a file is missing or a line is malformed.
  """
  found = files(data)
  path = found["sequences"]
  readers: list[Callable[[], Any]] = [lambda: _read_users(path, doctor)]
  rule = "unknown items"
  if "titles" in found:
    rule = f"items that {found['titles'].name} lacks"
    readers.append(
      lambda: title_files.read(found["titles"], data.encoding, doctor)
    )
  users, *given = mistakes.gather(*readers)
  titles = given[0] if given else _plain_titles(users)
  log = interactions.Log()
  for user, items in users.items():
    for position, item in enumerate(items):
      log.add(user, item, position)
  return log.finish(str(path), titles, rule, doctor)


def _read_users(
  path: pathlib.Path, doctor: doctor_lib.Doctor
) -> dict[str, list[str]]:
  users: dict[str, list[str]] = {}
  first: dict[str, int] = {}  # The line of each user.
  second: tuple[str, int] | None = None  # A user that has another one.
  pairs = True  # So far every line is one interaction.
  with mistakes.of(path) as wrong:
    for number, line in raw_files.lines(path, doctor):
      fields = line.split()
      if not fields:
        continue
      user, *items = fields
      if not items:
        problem = f"{line[:60]!r} found, a user and at least one item expected"
        wrong.add("lines", f"line {number}", problem)
        continue
      pairs &= len(items) == 1
      if user in first and second is None:
        second = user, number
      if second and not pairs:
        user, again = second
        raise errors.UserError(
          f"{path}: line {again}: user {values.shown(user)} a second time,"
          f" first on line {first[user]}; one line a user, or one item on every"
          " line (user item), expected"
        )
      first.setdefault(user, number)
      users.setdefault(user, []).extend(items)
  if second:
    doctor.note(
      f"{path.name} has one interaction a line, read in the order of the file"
    )
  return _long_enough(path, users, doctor)


def _long_enough(
  path: pathlib.Path, users: dict[str, list[str]], doctor: doctor_lib.Doctor
) -> dict[str, list[str]]:
  """Returns the users with enough items to split."""
  short = [user for user, items in users.items() if len(items) < _FEWEST]
  total = len(users)
  users = {
    user: items for user, items in users.items() if len(items) >= _FEWEST
  }
  doctor.removed(
    f"fewer than {_FEWEST} items", "users", total, len(users), short
  )
  if not users:
    raise errors.UserError(
      f"{path}: no user with at least {_FEWEST} items found among {total:,},"
      " lines such as 'user item item item' expected"
    )
  return users


def _plain_titles(users: dict[str, list[str]]) -> dict[str, str]:
  ids = {item for items in users.values() for item in items}
  # Python converts no number of thousands of digits.
  numeric = all(item.isdecimal() and len(item) < 1000 for item in ids)
  order = sorted(ids, key=(lambda i: (int(i), i)) if numeric else None)
  return {item: f"item {item}" for item in order}
