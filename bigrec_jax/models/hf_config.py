"""Typed look-ups in the config.json of a Hugging Face directory."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from absl import logging

from bigrec_jax import errors
from bigrec_jax.workdir import fields

# No size of a model is near it; beyond it sizes of arrays would overflow.
_MOST = 2**31 - 1


@functools.cache
def warn(line: str) -> None:
  """Logs a warning, once: a config.json is read by several in one run."""
  logging.warning("%s", line)


def flag(value: Any, where: str) -> bool:
  """Returns true or false; a text such as "false" is neither."""
  if not isinstance(value, bool):
    raise fields.refuse(where, value, "true or false")
  return value


@dataclasses.dataclass(frozen=True)
class Reader:
  """Typed look-ups in config.json whose errors name the file and the key."""

  values: Mapping[str, Any]
  source: str

  def error(self, key: str, expected: str) -> errors.UserError:
    """Returns the error of a key whose value is not what is expected."""
    return fields.refuse(self._place(key), self.values.get(key), expected)

  def _place(self, key: str) -> str:
    return f"{self.source}: {key}"

  def integer(self, key: str, otherwise: int | None = None) -> int:
    """Returns a positive integer; `otherwise` where there is none."""
    value = self.values.get(key)
    if value is None and otherwise is not None:
      return otherwise
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
      raise self.error(key, "a positive integer")
    if value > _MOST:
      raise self.error(key, f"at most {_MOST}")
    return value

  def number(self, key: str, otherwise: float) -> float:
    """Returns a finite number of at least 0; `otherwise` without the key."""
    value = fields.number(self.values.get(key, otherwise), self._place(key))
    if value < 0:
      raise self.error(key, "a number of at least 0")
    return float(value)

  def flag(self, key: str, otherwise: bool = False) -> bool:
    """Returns true or false; `otherwise` where there is none, or null."""
    value = self.values.get(key)
    return otherwise if value is None else flag(value, self._place(key))

  def token(self, key: str) -> int | None:
    """Returns the id of a token, or None."""
    value = self.values.get(key)
    return None if value is None else fields.whole(value, self._place(key))

  def tokens(self, key: str) -> tuple[int, ...]:
    """Returns the ids that a key gives: none, one or several."""
    value = self.values.get(key)
    if isinstance(value, (list, tuple)):
      return fields.sequence(fields.whole)(value, self._place(key))
    value = self.token(key)
    return () if value is None else (value,)

  def choice(self, key: str, choices: tuple[str, ...]) -> str:
    """Returns one of the choices."""
    value = self.values.get(key)
    if not isinstance(value, str) or value not in choices:
      raise self.error(key, f"one of {', '.join(choices)}")
    return value

  def expect(self, key: str, allowed: tuple[Any, ...], hint: str = "") -> None:
    """Refuses a key whose value is present and not among `allowed`."""
    value = self.values.get(key)
    if value is not None and value not in allowed:
      shown = " or ".join(repr(a) for a in allowed) or "nothing"
      raise self.error(key, f"{shown}{hint}")
