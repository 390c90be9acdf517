"""One line of the parity table."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Row:
  """A comparison with a peer and how it came out.

  Attributes:
    what: what is compared.
    peer: what it is compared with.
    cases: how many things were compared.
    difference: the largest difference; of bytes, texts and ranks, how many
      of the cases differ.
    tolerance: the largest difference that passes.
  """

  what: str
  peer: str
  cases: int
  difference: float
  tolerance: float

  @property
  def passed(self) -> bool:
    """Whether anything was compared and it is near enough; NaN is not."""
    return self.cases > 0 and self.difference <= self.tolerance

  def cells(self) -> tuple[str, ...]:
    """Returns the row for the terminal."""
    return (
      self.what,
      self.peer,
      f"{self.cases:,}",
      _number(self.difference),
      _number(self.tolerance),
      "pass" if self.passed else "FAIL",
    )


HEADERS = ("what", "peer", "cases", "difference", "tolerance", "")


def _number(value: float) -> str:
  if math.isfinite(value) and value == int(value):
    return f"{int(value):,}"
  return f"{value:.1e}"
