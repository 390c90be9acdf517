"""Bodies of requests, read with checks; a wrong one names its field."""

import json
import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from bigrec_jax import errors
from bigrec_jax.config import ServeConfig
from bigrec_jax.data.prepared import histories as histories_lib, new_items
from bigrec_jax.serving import refusals
from bigrec_jax.workdir import storage

_SHOWN = 60  # Characters of a wrong value.
_NESTED = "a list of histories, a list of ids or titles each,"
# Characters of one id or title.
_LONGEST = 4096


class Ask(NamedTuple):
  """What lists are asked for.

  Attributes:
    histories: ids or titles of each, oldest first.
    k: items in a list.
    exclude_history: never list what the history has.
    allow: external ids beside which nothing is listed; None = everything is.
    deny: external ids that aren't; None = all are.
    deadline_ms: after which nobody waits for the answer.
    unknown: what becomes of an item that the catalogue lacks: error, text,
      skip.
  """

  histories: list[list[str | int]]
  k: int
  exclude_history: bool
  allow: list[str | int] | None
  deny: list[str | int] | None
  deadline_ms: float
  unknown: str


class Defaults(NamedTuple):
  """What counts where a request doesn't say.

  Attributes:
    k: items in a list.
    exclude_history: see `Ask`.
    unknown: see `Ask`.
  """

  k: int
  exclude_history: bool
  unknown: str


def recommend(body: bytes, limits: ServeConfig, defaults: Defaults) -> Ask:
  """Returns what the body of POST /v1/recommend asks for.

  Raises:
    RefusedError: 400 or 413, with the field.
  """
  given = _object(body, Ask._fields)
  if "histories" not in given:
    raise refusals.bad("histories", f"histories: missing, {_NESTED} expected")
  histories = _list(given["histories"], "histories", _NESTED)
  # More than may wait would be told to come again for ever.
  most = min(limits.max_histories, limits.queue)
  if len(histories) > most:
    raise _beyond("histories", len(histories), most)
  for n, history in enumerate(histories):
    place = f"histories[{n}]"
    _list(history, place, "a list of ids or titles, oldest first,")
    if len(history) > limits.max_history:
      raise _beyond(place, len(history), limits.max_history)
    _check_ids(history, place, "an id or a title")
  k = given.get("k", defaults.k)
  if (
    isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= limits.max_k
  ):
    raise _wrong("k", k, f"a whole number from 1 to {limits.max_k}")
  exclude = given.get("exclude_history", defaults.exclude_history)
  if not isinstance(exclude, bool):
    raise _wrong("exclude_history", exclude, "true or false")
  unknown = given.get("unknown", defaults.unknown)
  if unknown not in histories_lib.UNKNOWN:
    expected = ", ".join(histories_lib.UNKNOWN)
    raise _wrong("unknown", unknown, f"one of {expected}")
  return Ask(
    histories,
    k,
    exclude,
    _ids(given, "allow"),
    _ids(given, "deny"),
    _deadline(given, limits),
    unknown,
  )


def added(body: bytes) -> list[new_items.NewItem]:
  """Returns the items of POST /v1/catalogue."""
  given = _object(body, ("items",))
  expected = "a list of objects with external_id and title"
  if "items" not in given:
    raise refusals.bad("items", f"items: missing, {expected} expected")
  found = []
  for n, item in enumerate(_list(given["items"], "items", expected)):
    place = f"items[{n}]"
    if not isinstance(item, dict):
      raise _wrong(place, item, "an object with external_id and title")
    found.append(_checked(lambda: new_items.of_object(item, place)))  # noqa: B023
  return found


def withdrawn(body: bytes) -> list[str]:
  """Returns the ids of POST /v1/catalogue/withdraw."""
  given = _object(body, ("external_ids",))
  ids = _ids(given, "external_ids")
  if not ids:
    raise refusals.bad(
      "external_ids", "external_ids: missing, a list of external ids expected"
    )
  return [str(external_id) for external_id in ids]


def nothing(body: bytes) -> None:
  """Checks the body of a request that has nothing to say."""
  if body.strip():
    _object(body, ())


def _checked(make: Callable[[], Any]) -> Any:
  try:
    return make()
  except errors.UserError as error:
    field = str(error).split(":")[0]
    raise refusals.bad(field, str(error)) from None


def _object(body: bytes, known: Collection[str]) -> dict[str, Any]:
  try:
    value = storage.parse_json(body, "body")
  except errors.UserError as error:
    raise refusals.bad("", str(error)) from None
  if not isinstance(value, dict):
    raise _wrong("body", value, "an object")
  for key in value:
    if key not in known:
      expected = ", ".join(known) or "nothing"
      raise refusals.bad(
        key[:_SHOWN], f"{key[:_SHOWN]}: unknown, {expected} expected"
      )
  return value


def _deadline(given: dict[str, Any], limits: ServeConfig) -> float:
  value = given.get("deadline_ms", limits.deadline_ms)
  number = isinstance(value, (int, float)) and not isinstance(value, bool)
  if not number or not 0 < value < math.inf:
    raise _wrong("deadline_ms", value, "a number of milliseconds above 0")
  return float(min(value, limits.deadline_ms))  # An int may be beyond floats.


def _ids(given: dict[str, Any], key: str) -> list[str | int] | None:
  value = given.get(key)
  if value is None:
    return None
  found = _list(value, key, "a list of external ids")
  _check_ids(found, key, "an external id")
  return found


def _check_ids(items: list[Any], place: str, expected: str) -> None:
  for m, item in enumerate(items):
    if isinstance(item, bool) or not isinstance(item, (str, int)):
      raise _wrong(f"{place}[{m}]", item, expected)
    if isinstance(item, str) and len(item) > _LONGEST:
      raise refusals.too_large(
        f"{place}[{m}]",
        f"{place}[{m}]: {len(item):,} characters found, at most {_LONGEST:,}"
        " expected",
      )


def _list(value: Any, field: str, expected: str) -> list[Any]:
  if not isinstance(value, list):
    raise _wrong(field, value, expected.rstrip(","))
  return value


def _wrong(field: str, value: Any, expected: str) -> refusals.RefusedError:
  try:
    shown = json.dumps(value)
  except (ValueError, RecursionError):
    shown = type(value).__name__
  if len(shown) > _SHOWN:
    shown = f"{shown[: _SHOWN - 3]}..."
  return refusals.bad(field, f"{field}: {shown} found, {expected} expected")


def _beyond(field: str, found: int, most: int) -> refusals.RefusedError:
  return refusals.too_large(
    field, f"{field}: {found:,} found, at most {most:,} expected"
  )
