"""The section of the report that sets other runs beside this one."""

from collections.abc import Sequence

from bigrec_jax.results import (
  clusters,
  comparisons,
  intervals,
  main_rows,
  other_runs,
  page,
  paired_tests,
  run_data,
  seeds,
  significance,
)

_K = 10
_EFFORT = significance.Effort(1000, 10_000, 0)


def runs(found: Sequence[other_runs.Group]) -> page.Html:
  """Returns what runs reach on test, and tests of each against the first.

  Args:
    found: the first is of the workdir that is reported.
  """
  names = list(
    dict.fromkeys(
      name
      for group in found
      for run in group.runs
      for name in paired_tests.ranked(run.ground, {})
      if not name.endswith(":bigrec")  # A gamma a cutoff: no single list.
    )
  )
  tables = [
    page.table(
      ["", *(group.label for group in found)],
      [
        [main_rows.label(name), *(_cell(g, name, metric) for g in found)]
        for name in names
      ],
      f"{metric.upper()}@{_K} on test. Of several seeds their mean ± standard"
      " deviation; of one, small, the 95 % interval over users.",
    )
    for metric in run_data.METRICS
  ]
  return page.join([*tables, _tests(found)])


def _cell(group: other_runs.Group, name: str, metric: str) -> object:
  values = group.values(name, metric, _K)
  if not values:
    return None
  if len(values) > 1:
    return seeds.mean_and_spread(values)
  run = next(r for r in group.runs if r.value(name, metric, _K) is not None)
  known = paired_tests.ranked(run.ground, {})[name].row.ci95
  ends = intervals.of_value(
    metric,
    values[0],
    run.ground.units("test"),
    known.get(metric, {}).get(str(_K)),
  )
  if ends is None:
    return values[0]
  small = page.element("span", f"{ends[0]:.3f}–{ends[1]:.3f}", "ci")
  return page.join([values[0], small])


def _tests(found: Sequence[other_runs.Group]) -> page.Html:
  """Returns each run's best row against that of the first, paired."""
  first = found[0]
  asked, done = [], []
  for group in found[1:]:
    test = _test(first, group)
    asked.append(f"{group.label}: {_best(group)}")
    done.append(test)
  if not asked:
    return page.Html("")
  corrected = iter(significance.holm([t.p for t in done if t is not None]))
  rows: list[list[object]] = []
  for name, test in zip(asked, done, strict=True):
    if test is None:
      rows.append([name, None, None, "other test users, or no ranks"])
      continue
    low, high = test.ci95
    ends = f"{low:+.4f} to {high:+.4f}"
    p = comparisons.in_words(next(corrected))
    rows.append([name, f"{test.difference:+.4f}", ends, p])
  return page.table(
    ["", "difference", "95 %", "p"],
    rows,
    f"NDCG@{_K} of what valid likes best in each run less that of"
    f" {first.label}: {_best(first)}. Paired over test users, and over seeds"
    " where there are several; p after Holm.",
  )


def _best(group: other_runs.Group) -> str:
  return main_rows.label(group.best) if group.best else "nothing"


def _test(
  first: other_runs.Group, other: other_runs.Group
) -> significance.Difference | None:
  if first.users is None or first.users != other.users:
    return None
  ranks = [
    group.ranks(group.best, "ndcg", _K) if group.best else None
    for group in (other, first)
  ]
  one, two = ranks
  if one is None or two is None or one.shape[1] != two.shape[1]:
    return None
  question = significance.Question("ndcg", _K)
  users = clusters.of_owners(first.runs[0].ranks.get(paired_tests.OWNERS))
  return significance.compare(one, two, question, _EFFORT, users)
