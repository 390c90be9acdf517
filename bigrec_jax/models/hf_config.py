"""Typed look-ups in the config.json of a Hugging Face directory."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bigrec_jax import errors


@dataclasses.dataclass(frozen=True)
class Reader:
  """Typed look-ups in config.json whose errors name the file and the key."""

  values: Mapping[str, Any]
  source: str

  def error(self, key: str, expected: str) -> errors.UserError:
    """Returns the error of a key whose value is not what is expected."""
    found = self.values.get(key)
    return errors.UserError(
      f"{self.source}: {key}: {found!r} found, {expected} expected"
    )

  def integer(self, key: str, otherwise: int | None = None) -> int:
    """Returns a positive integer; `otherwise` where there is none."""
    value = self.values.get(key)
    if value is None and otherwise is not None:
      return otherwise
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
      raise self.error(key, "a positive integer")
    return value

  def choice(self, key: str, choices: tuple[str, ...]) -> str:
    """Returns one of the choices."""
    value = self.values.get(key)
    if value not in choices:
      raise self.error(key, f"one of {', '.join(choices)}")
    return value

  def expect(self, key: str, allowed: tuple[Any, ...], hint: str = "") -> None:
    """Refuses a key whose value is present and not among `allowed`."""
    value = self.values.get(key)
    if value is not None and value not in allowed:
      shown = " or ".join(repr(a) for a in allowed) or "nothing"
      raise self.error(key, f"{shown}{hint}")
