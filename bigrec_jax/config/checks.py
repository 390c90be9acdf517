"""Checks of configuration values; a wrong one is one line."""

import dataclasses
import math
from typing import Any, cast, get_type_hints

import ml_collections

from bigrec_jax import errors


def choice(key: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises UserError if `value` is none of `choices`."""
  if value not in choices:
    raise errors.UserError(
      f"config.{key}: {value!r} found, one of {', '.join(choices)} expected"
    )


def at_least(key: str, value: float, least: float) -> None:
  """Raises UserError if `value` is below `least` or NaN."""
  if not value >= least:  # NaN is not, either.
    raise errors.UserError(
      f"config.{key}: {value} found, at least {least} expected"
    )


def positive(key: str, value: float) -> None:
  """Raises UserError if `value` is not a positive, finite number."""
  if not 0 < value < math.inf:
    raise errors.UserError(
      f"config.{key}: {value} found, a positive number expected"
    )


def build(cls: type, values: ml_collections.ConfigDict, prefix: str) -> Any:
  """Fills a tree of dataclasses; keys and fields must be the same.

  Args:
    cls: dataclass to make.
    values: of its fields; lists become tuples.
    prefix: of the keys, for messages, e.g. "train.".

  Raises:
    UserError: a key is unknown or missing.
  """
  hints = get_type_hints(cls)
  given = set(values.keys())
  if unknown := given - set(hints):
    raise errors.UserError(
      f"config.{prefix}{sorted(unknown)[0]}: unknown key, expected one of"
      f" {', '.join(sorted(hints))}"
    )
  if missing := set(hints) - given:
    raise errors.UserError(f"config.{prefix}{sorted(missing)[0]}: missing")
  fields = {}
  for name, hint in hints.items():
    value = values[name]
    if dataclasses.is_dataclass(hint):
      value = build(cast(type, hint), value, f"{prefix}{name}.")
    elif hint == tuple[str, ...]:
      # A flag's "a,b" arrives as one string; ("a", "b") as two.
      value = tuple(p.strip() for part in value for p in part.split(","))
    elif isinstance(value, (tuple, list)):
      value = tuple(value)
    elif hint is float:
      value = float(value)
    fields[name] = value
  return cls(**fields)
