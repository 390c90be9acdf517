"""The question that a report is read for: what is best, and what does it beat?

The best system is the one that valid likes best of all rows; the strongest
baseline likewise, of those that are not BIGRec's. Test figures choose nothing.
"""

import dataclasses
from collections.abc import Mapping

from bigrec_jax.results import (
  comparisons,
  main_rows,
  paired_tests,
  run_data,
  significance,
)

# Of a test that the evaluation did not ask itself.
_EFFORT = significance.Effort(1000, 10_000, 0)


@dataclasses.dataclass(frozen=True)
class Answer:
  """What a run found.

  Attributes:
    best: the row that valid likes best.
    baseline: the strongest of the others' rows; None = there is none.
    test: best against baseline; None where ranks of one are not kept.
    corrected: whether its p is of the evaluation's family of tests (Holm).
    k: cutoff of the test.
    metric: of the test.
  """

  best: run_data.System
  baseline: run_data.System | None
  test: comparisons.Comparison | None
  corrected: bool
  k: int
  metric: str

  @property
  def verdict(self) -> str:
    """Beats, loses to, or neither, at p < .05."""
    if self.test is None or self.test.p_holm >= 0.05:
      return "is not told apart from"
    return "beats" if self.test.difference > 0 else "loses to"


def of_run(data: run_data.RunData, k: int) -> Answer | None:
  """Returns the answer; None where nothing was evaluated.

  Args:
    data: the workdir.
    k: the cutoff that is shown, where it was measured.
  """
  ground, found = data.ground, run_data.systems(data, "test")
  if ground is None:
    return None
  valid = _on_valid(data)
  own = [s for s in found if s.kind in ("bigrec", "system") and s.row in valid]
  others = [s for s in found if s.kind == "baseline" and _name(s) in valid]
  others = [s for s in others if s.key != "random"]
  ranked = sorted(own + others, key=lambda s: -valid[_name(s)])
  if not ranked:
    return None
  best = ranked[0]
  baseline = max(others, key=lambda s: valid[_name(s)], default=None)
  if baseline is best:  # Then it is BIGRec's best that has to be told.
    baseline = max(own, key=lambda s: valid[_name(s)], default=None)
  ks = run_data.cutoffs([best])
  k = k if k in ks or not ks else max(ks)
  metric = "hr"
  test, corrected = _test(data, best, baseline, metric, k)
  return Answer(best, baseline, test, corrected, k, metric)


def _name(system: run_data.System) -> str:
  return system.row or system.key


def _on_valid(data: run_data.RunData) -> dict[str, float]:
  """Returns the NDCG on valid by row, and of CF models without ranks by key."""
  assert data.ground is not None
  values, k = main_rows.on_valid(data.ground), data.ground.chosen_by
  for system in run_data.systems(data, "valid"):
    value = system.values.get("ndcg", {}).get(k)
    if system.kind == "baseline" and not system.row and value is not None:
      values.setdefault(system.key, value)
  return values


def _test(
  data: run_data.RunData,
  best: run_data.System,
  other: run_data.System | None,
  metric: str,
  k: int,
) -> tuple[comparisons.Comparison | None, bool]:
  """Returns the paired test of two rows, and whether it is a corrected one."""
  ground = data.ground
  if ground is None or other is None or not (best.row and other.row):
    return None, False
  known = comparisons.between(ground.tests, best.row, other.row, metric, k)
  if known is not None:
    return known, True
  listed = paired_tests.ranked(ground, data.ranks)
  ranks = [
    listed[one.row].ranks(metric, k) if one.row in listed else None
    for one in (best, other)
  ]
  one, two = ranks
  if one is None or two is None or one.shape != two.shape:
    return None, False
  found = significance.compare(
    one,
    two,
    significance.Question(metric, k),
    _EFFORT,
    data.users,
  )
  return comparisons.Comparison(
    best.row,
    other.row,
    (),
    "test",
    metric,
    k,
    found.difference,
    list(found.ci95),
    found.p,
    found.p,
    found.n,
  ), False


def seconds(throughput: Mapping[str, Mapping[str, float]]) -> float | None:
  """Returns how long all stages took; None where nobody knows."""
  known = [row["seconds"] for row in throughput.values() if "seconds" in row]
  return sum(known) if known else None
