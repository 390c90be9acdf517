"""How far what a mesh gives is from what one device gives."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigrec_jax.results import table

_HEADERS = ("check", "mesh", "devices", "difference", "allowed", "s", "")


@dataclasses.dataclass(frozen=True)
class Row:
  """One check on one mesh.

  Attributes:
    check: what was computed.
    mesh: where, e.g. "fsdp 1x8x1".
    devices: of the mesh; 0 = it needs none.
    differences: the largest of each array, of the larger of 1 and the value;
      None where it has none, since shapes differ or something isn't finite.
    allowed: likewise; 0 = the same.
    seconds: compilation included.
    problem: what stopped it, "" if nothing did.
  """

  check: str
  mesh: str
  devices: int
  differences: dict[str, float | None]
  allowed: dict[str, float]
  seconds: float
  problem: str = ""

  @property
  def agrees(self) -> bool:
    """Whether nothing stopped it and no difference is larger than allowed."""
    return not self.problem and all(
      value is not None and value <= self.allowed[name]
      for name, value in self.differences.items()
    )

  def to_json(self) -> dict[str, Any]:
    """Returns the row of selfcheck.json."""
    return dataclasses.asdict(self) | {"agrees": self.agrees}

  def cells(self) -> list[str]:
    """Returns the row of the table: the array that is furthest from right."""
    verdict = "ok" if self.agrees else "DIFFERS"
    shown = "-", "-"
    if self.problem:
      verdict = f"FAILED: {self.problem}"
    elif self.differences:
      name = max(self.differences, key=self._excess)
      shown = _number(self.differences[name]), _number(self.allowed[name])
      if not self.agrees:
        verdict = f"DIFFERS in {name}"
    where, seconds = str(self.devices or "-"), f"{self.seconds:.1f}"
    return [self.check, self.mesh, where, *shown, seconds, verdict]

  def _excess(self, name: str) -> float:
    value, allowed = self.differences[name], self.allowed[name]
    if value is None:
      return math.inf
    # An exact array that agrees says less than a number that nearly does not.
    return value / allowed if allowed else value * math.inf if value else -1.0


def _number(value: float | None) -> str:
  if value is None:
    return "-"
  return "0" if value == 0 else f"{value:.1e}"


def difference(found: np.ndarray, expected: np.ndarray) -> float | None:
  """Returns the largest difference, of the larger of 1 and the value.

  Infinities are equal to themselves.

  Args:
    found: any shape.
    expected: likewise.
  """
  if found.shape != expected.shape:
    return None
  ours, theirs = found.astype(np.float64), expected.astype(np.float64)
  with np.errstate(invalid="ignore"):
    apart = np.abs(ours - theirs) / np.maximum(1.0, np.abs(theirs))
  apart = np.where(ours == theirs, 0.0, apart)
  worst = float(apart.max(initial=0.0))
  return worst if math.isfinite(worst) else None


def compare(
  found: Mapping[str, np.ndarray],
  expected: Mapping[str, np.ndarray],
  tolerances: Mapping[str, float],
  at_least: float = 0.0,
) -> tuple[dict[str, float | None], dict[str, float]]:
  """Returns the difference of each array, and what is allowed.

  Args:
    found: arrays by name.
    expected: likewise.
    tolerances: of each; those without are not compared.
    at_least: allowed where any difference is.
  """
  allowed = {
    name: max(value, at_least) if value else 0.0
    for name, value in tolerances.items()
  }
  apart = {
    name: difference(np.asarray(found[name]), np.asarray(expected[name]))
    for name in tolerances
  }
  return apart, allowed


def render(rows: Sequence[Row]) -> str:
  """Returns the rows as a table for people."""
  return table.format_table(_HEADERS, [row.cells() for row in rows])


def verdict(rows: Sequence[Row], where: str) -> str:
  """Returns the last line.

  Args:
    rows: all of them.
    where: the devices, in words.
  """
  wrong = [f"{row.check} on {row.mesh}" for row in rows if not row.agrees]
  if not wrong:
    return f"selfcheck: all {len(rows)} checks agree ({where})"
  return (
    f"selfcheck: {len(wrong)} of {len(rows)} checks DIFFER ({where}):"
    f" {'; '.join(wrong)}"
  )
