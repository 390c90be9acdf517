"""Which items of the catalogue a call may list: allow and deny lists of ids."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from bigrec_jax import errors
from bigrec_jax.data.prepared import catalogue as catalogue_lib


class Filter(NamedTuple):
  """What may be listed.

  Attributes:
    allowed: [I] bool, at least one of them; None = all are.
    unknown: ids that were given and that the catalogue lacks. An in-stock
      file names items that came later, so they are no mistake.
  """

  allowed: np.ndarray | None
  unknown: tuple[str, ...]


EVERYTHING = Filter(None, ())


def of_ids(
  catalogue: catalogue_lib.Catalogue,
  allow: Iterable[str | int] | None,
  deny: Iterable[str | int] | None,
) -> Filter:
  """Returns the filter of external ids; deny goes before allow.

  Args:
    catalogue: whose ids they are.
    allow: nothing else is listed; None = everything may be.
    deny: never listed; None = nothing.

  Raises:
    UserError: something else than ids is given, or nothing is left to list.
  """
  if allow is None and deny is None:
    return EVERYTHING
  unknown: list[str] = []
  allowed = np.full(len(catalogue), allow is None)
  if allow is not None:
    allowed[_rows(catalogue, "allow", allow, unknown)] = True
  if deny is not None:
    allowed[_rows(catalogue, "deny", deny, unknown)] = False
  if not allowed.any():
    raise errors.UserError(
      f"allow, deny: none of the {len(catalogue):,} items is left, at least one"
      f" expected ({len(unknown):,} of the given ids aren't in the catalogue"
      f"{f', e.g. {unknown[0]!r}' if unknown else ''})"
    )
  return Filter(allowed, tuple(unknown))


def _rows(
  catalogue: catalogue_lib.Catalogue,
  name: str,
  given: Iterable[str | int],
  unknown: list[str],
) -> list[int]:
  """Returns the rows of ids; adds those that the catalogue lacks to a list."""
  if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
    raise errors.UserError(
      f"{name}: {given!r} found, a list of external ids expected"
    )
  rows = []
  for number, external_id in enumerate(given):
    if isinstance(external_id, bool) or not isinstance(
      external_id, (str, int, np.integer)
    ):
      raise errors.UserError(
        f"{name}[{number}]: {external_id!r} found, an external id expected"
      )
    row = catalogue.index_of_external_id(str(external_id))
    if row is None:
      unknown.append(str(external_id))
    else:
      rows.append(row)
  return rows
