"""A paired test between two rows of an evaluation, as its file keeps it."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from bigrec_jax.workdir import fields

# Why two rows are compared.
REASONS = ("bigrec", "part", "best_single")


@dataclasses.dataclass(frozen=True)
class Comparison:
  """A row of `tests` in metrics/ground_eval.json.

  Attributes:
    a: a row by its name: bigrec, bigrec+<injection>:<protocol>, a baseline or
      a system.
    b: likewise; the difference is that of a minus that of b.
    because: b is BIGRec or a is (bigrec), b is a part of a (part), b is what
      valid likes best of those that combine nothing (best_single).
    split: whose users.
    metric: ndcg or hr.
    k: cutoff.
    difference: of the means.
    ci95: [low, high] of the difference.
    p: two-sided.
    p_holm: the same, corrected for all tests of the file.
    n: users.
  """

  a: str
  b: str
  because: Sequence[str]
  split: str
  metric: str
  k: int
  difference: float
  ci95: Sequence[float]
  p: float
  p_holm: float
  n: int

  @property
  def reversed(self) -> "Comparison":
    """The same test with a and b exchanged."""
    low, high = self.ci95
    return dataclasses.replace(
      self,
      a=self.b,
      b=self.a,
      difference=0.0 - self.difference,  # No -0.
      ci95=(0.0 - high, 0.0 - low),
    )

  def to_json(self) -> dict[str, Any]:
    """Returns the object of the file."""
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

  @classmethod
  def from_json(cls, value: Any, where: str) -> "Comparison":
    """Reads an object of the file; `where` names it in messages.

    Raises:
      UserError: a field is missing or of another kind.
    """
    row = fields.Fields(value, where)
    return cls(
      row.get("a", fields.text),
      row.get("b", fields.text),
      row.get("because", fields.sequence(fields.text)),
      row.get("split", fields.text),
      row.get("metric", fields.text),
      row.get("k", fields.count),
      row.get("difference", fields.number),
      row.get("ci95", fields.interval),
      row.get("p", fields.number),
      row.get("p_holm", fields.number),
      row.get("n", fields.count),
    )


def between(
  tests: Iterable[Comparison], a: str, b: str, metric: str, k: int
) -> Comparison | None:
  """Returns the test of a against b, whichever way it was asked."""
  for test in tests:
    if (test.metric, test.k) == (metric, k):
      if (test.a, test.b) == (a, b):
        return test
      if (test.a, test.b) == (b, a):
        return test.reversed
  return None


def headline_cutoff(tests: Iterable[Comparison]) -> int | None:
  """Returns 10, or the largest cutoff tested where 10 isn't; None of none."""
  known = {test.k for test in tests}
  return 10 if 10 in known else max(known, default=None)


def in_words(p: float) -> str:
  """Returns p as tables show it."""
  return "< .0001" if p < 1e-4 else f"{p:.4f}".removeprefix("0")
