"""For whom lists are made: histories that are given, or users of the data."""

import pathlib
from collections.abc import Iterable, Iterator

from bigrec_jax import config as config_lib, errors
from bigrec_jax.data.formats import raw_files
from bigrec_jax.data.prepared import (
  histories as histories_lib,
  history_files,
  users as users_lib,
)
from bigrec_jax.stages.session import Session

_ALL = "all"
_SHOWN = 3  # Unknown users in a message.


def rows(session: Session) -> Iterable[histories_lib.Row]:
  """Returns the histories: of a file, of the command line, or of the data.

  Raises:
    UserError: none of them is given, or several are.
  """
  config = session.config.recommend
  check(config)
  if config.history:
    return histories_lib.from_flags(config.history)
  if config.users:
    return _of_data(session)
  return history_files.read(
    raw_files.given("recommend.histories", config.histories),
    session.config.data.columns,
  )


def check(config: config_lib.RecommendConfig) -> None:
  """Raises UserError unless one of the three is given, and is there."""
  given = {
    "--history": bool(config.history),
    f"config.recommend.histories={config.histories}": bool(config.histories),
    f"config.recommend.users={config.users}": bool(config.users),
  }
  named = [name for name, is_given in given.items() if is_given]
  if len(named) > 1:
    raise errors.UserError(f"{' and '.join(named)}: one of them expected")
  if not named:
    raise errors.UserError(
      "--mode=recommend: no histories found; --history=<id or title>, once for"
      " each item, oldest first, --config.recommend.histories=<JSON lines, CSV"
      " or Parquet> or --config.recommend.users=all expected"
    )
  if config.users not in ("", _ALL):
    raw_files.given("recommend.users", config.users)


def count(session: Session) -> int:
  """Returns how many there are, before the catalogue is."""
  config = session.config.recommend
  check(config)
  if config.users == _ALL:
    if not session.paths.users.exists():
      return 0  # Not prepared yet.
    with open(session.paths.users, "rb") as file:
      return sum(1 for _ in file)
  if config.users:
    path = pathlib.Path(config.users)
    return len(history_files.read_ids(path, "user").ids)
  return sum(1 for _ in rows(session))


def _of_data(session: Session) -> Iterator[histories_lib.Row]:
  """Yields the histories of users of the data, in the order of the data."""
  config, catalogue = session.config.recommend, session.offered
  path, wanted = session.paths.users, None
  if config.users != _ALL:
    file = raw_files.given("recommend.users", config.users)
    wanted = history_files.read_ids(file, "user").ids
    _check_known(file, wanted, session)
  for name, items in users_lib.read(path, len(catalogue)):
    if wanted is None or name in wanted:
      ids = [catalogue.external_ids[item] for item in items]
      place = f"{path}: user {name!r}"
      yield histories_lib.checked(place, {"user": name, histories_lib.KEY: ids})


def _check_known(
  file: pathlib.Path, wanted: dict[str, str], session: Session
) -> None:
  """Raises UserError for ids that no user of the data has."""
  if session.config.recommend.unknown in ("skip", "text"):
    return
  read = users_lib.read(session.paths.users, len(session.catalogue))
  missing = wanted.keys() - {name for name, _ in read if name in wanted}
  if missing:
    places = [
      f"{place.rpartition(': ')[2]} {name!r}"
      for name, place in wanted.items()
      if name in missing
    ]
    dots = ", ..." if len(places) > _SHOWN else ""
    raise errors.UserError(
      f"{file}: {len(missing):,} of {len(wanted):,} ids found that no user of"
      f" {session.paths.users} has: {', '.join(places[:_SHOWN])}{dots}; users"
      " of the data expected (config.recommend.unknown=skip leaves them out)"
    )
