"""What a request names, found in the catalogue."""

import time

from bigrec_jax import errors
from bigrec_jax.data.formats import raw_files
from bigrec_jax.data.prepared import (
  catalogue as catalogue_lib,
  histories as histories_lib,
)
from bigrec_jax.recommend import filters
from bigrec_jax.serving import refusals, requests, waiting


def find(
  ask: requests.Ask, catalogue: catalogue_lib.Catalogue, deadline: float
) -> histories_lib.Histories:
  """Looks histories up.

  For a message the nearest title isn't looked for: of a large catalogue that
  takes a second.

  Args:
    ask: whose histories.
    catalogue: where to look.
    deadline: after which nobody waits, on the clock of `time.monotonic`.

  Raises:
    RefusedError: an item isn't there, and that is a mistake; or it is late.
  """

  def in_time() -> None:
    if time.monotonic() > deadline:
      raise refusals.expired()

  rows = histories_lib.from_lists(ask.histories)
  way = "text" if ask.unknown == "error" else ask.unknown
  try:
    found = histories_lib.find(rows, catalogue, way, "unknown", in_time)
  except errors.UserError as error:  # No title is near.
    raise refusals.bad(str(error).split(":")[0], str(error)) from None
  if ask.unknown == "error":
    for n, lacking in enumerate(found.unknown):
      for m, item in enumerate(ask.histories[n] if lacking else ()):
        if raw_files.repaired(str(item)) in lacking:
          field = f"histories[{n}][{m}]"
          raise refusals.bad(
            field,
            f"{field}: {str(item)[:80]!r} found, an id or a title of the"
            ' catalogue expected ("unknown": "text" writes it into the prompt'
            ' as it is, "skip" leaves it out)',
          )
  return found


def shown(
  ask: requests.Ask, catalogue: catalogue_lib.Catalogue
) -> filters.Filter:
  """Returns what may be listed.

  Raises:
    RefusedError: nothing may.
  """
  try:
    return filters.of_ids(catalogue, ask.allow, ask.deny)
  except errors.UserError as error:
    field = "allow" if ask.allow is not None else "deny"
    raise refusals.bad(field, str(error)) from None


def again(
  user: waiting.User, edition: int, catalogue: catalogue_lib.Catalogue
) -> histories_lib.Histories:
  """Returns a history in the catalogue as it is now.

  An item that went meanwhile is in the prompt; no list has it anyway.
  """
  own = user.history
  if user.request.edition == edition:
    return own
  now = histories_lib.find(own.rows, catalogue, "skip", "unknown")
  return histories_lib.Histories(
    own.rows, own.titles, now.items, own.unknown, own.nearest
  )
