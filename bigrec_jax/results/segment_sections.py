"""Sections of the report on whom it works for, and where hits come from."""

from collections.abc import Mapping, Sequence

import numpy as np

from bigrec_jax.results import (
  intervals,
  main_rows,
  metrics,
  page,
  plots,
  run_data,
  segments,
)

_K = 10
_SAMPLES = 1000  # Of a bootstrap interval.
_FIRST = "--mode=ground_eval makes them."
_ALONE = {"bigrec": "text", "cf": "CF", "most_pop": "popularity"}


def by_segment(
  data: run_data.RunData, users: segments.Users | None
) -> page.Html:
  """Returns HR@10 and NDCG@10 of the main rows for groups of test users.

  Args:
    data: the workdir.
    users: of test; None where the prepared data can't be read.
  """
  rows = main_rows.closely(data)
  target = data.ranks.get("target")
  if users is None or target is None or not rows:
    return page.missing("ranks and examples of the test users", _FIRST)
  if len(users.target) != len(target) or not data.catalogue:
    return page.missing(
      "examples that fit the ranks", "--mode=ground_eval makes both anew."
    )
  counts = np.array([row.get("popularity", 0) for row in data.catalogue])
  groups = [
    *segments.by_popularity(users.target, counts),
    *segments.by_transition(users.known_transition),
    *segments.by_history(users.history_length),
  ]
  kept = [(name, mask) for name, mask in groups if mask.any()]
  looks = _looks(rows)
  series = [
    (looks[name], main_rows.label(name), [_hits(r[m]) for _, m in kept])
    for name, r in rows.items()
  ]
  names = [
    name.replace(" ", "\n", 1) + f"\nn = {int(mask.sum()):,}"
    for name, mask in kept
  ]
  svg = plots.bars(
    "segments",
    f"HR@{_K} by group of test {data.noun}",
    names,
    series,
    f"HR@{_K}",
  )
  caption = (
    "Cold targets are not in train, popular ones are the tenth of the catalogue"
    " that it has most often. A transition is memorised where somebody in"
    " train, all of it, went from the last item of the user's history to the"
    " target. Groups of one kind share all users; those of different kinds"
    " overlap."
  )
  tables = [_table(data, rows, kept, metric) for metric in ("hr", "ndcg")]
  figures = page.details("The figures", page.join(tables))
  return page.join([page.figure(svg, caption), figures])


def _hits(ranks: np.ndarray) -> float:
  return metrics.hit_rate(ranks, _K)


def _looks(rows: Mapping[str, np.ndarray]) -> dict[str, str]:
  """Returns the keys that decide how plots draw each row."""
  fixed = {"bigrec": "none", "cf": "cf_alone", "most_pop": "most_popular"}
  found = {}
  for name in rows:
    injected = name.removeprefix("bigrec+")
    plain = injected.split(":")[0] if injected != name else name
    found[name] = fixed.get(name, plain)
  return found


def _table(
  data: run_data.RunData,
  rows: Mapping[str, np.ndarray],
  groups: Sequence[tuple[str, np.ndarray]],
  metric: str,
) -> page.Html:
  cells = []
  for name, mask in groups:
    line: list[object] = [name, int(mask.sum())]
    for ranks in rows.values():
      own = ranks[mask]
      value = metrics.METRICS[metric](own, _K)
      users = None if data.users is None else data.users.take(mask)
      low, high = intervals.of_ranks(own, metric, _K, _SAMPLES, users)
      small = page.element("span", f"{low:.3f}–{high:.3f}", "ci")
      line.append(page.join([value, small]))
    cells.append(line)
  return page.table(
    [f"test {data.noun}", "n", *map(main_rows.label, rows)],
    cells,
    f"{metric.upper()}@{_K} by group; small: 95 % interval by bootstrap over"
    " the group's users, the exact one where none or all are hit.",
  )


def where_from(data: run_data.RunData) -> page.Html:
  """Returns by what the users are hit whom the best combination hits."""
  rows = main_rows.closely(data)
  best = main_rows.best_combined(data.ground) if data.ground else None
  alone = {name: rows[name] for name in _ALONE if name in rows}
  if best is None or best not in rows or len(alone) < 2:
    return page.missing(
      "ranks of a combination and of its parts",
      "ground_eval keeps them where something is injected; an evaluation of"
      " before it did has to be made again.",
    )
  hit = rows[best] < _K
  if not hit.any():
    return page.paragraph(
      f"{main_rows.label(best)} hits none of the test {data.noun} within the"
      f" first {_K}."
    )
  groups = _combinations({n: (r < _K)[hit] for n, r in alone.items()})
  label, total = main_rows.label(best), int(hit.sum())
  shares = [count / total for _, count in groups]
  names = [
    name.replace(" and ", "\nand ") + f"\nn = {count:,}"
    for name, count in groups
  ]
  svg = plots.bars(
    "hits",
    f"What alone hits the {data.noun} that {label} hits",
    names,
    [("none", f"share of the {total:,} {data.noun} hit", shares)],
    "share",
  )
  lost = [
    f"{_ALONE[name][0].upper()}{_ALONE[name][1:]} alone: {data.noun} hit"
    f" {int((ranks < _K).sum()):,}, of them lost by {label}"
    f" {int(((ranks < _K) & ~hit).sum()):,}."
    for name, ranks in alone.items()
  ]
  caption = (
    f"{label} is what valid likes best of all that add to BIGRec's text; of"
    f" {len(hit):,} test {data.noun} it hits {total:,} within the first {_K}."
    " Each is counted once, under all parts that hit it alone."
  )
  return page.join([page.figure(svg, caption), page.listing(lost)])


def _combinations(
  hits: Mapping[str, np.ndarray],
) -> list[tuple[str, int]]:
  """Returns (which parts hit, how many users) of every combination there is.

  Args:
    hits: by part, whether it hits each of the users.
  """
  code = sum(
    (hit.astype(np.int64) << place for place, hit in enumerate(hits.values())),
    np.zeros(1, np.int64),
  )
  found = []
  for value in sorted(range(2 ** len(hits)), key=_size_then_order):
    names = [_ALONE[n] for p, n in enumerate(hits) if value >> p & 1]
    name = " and ".join(names) or "none of them"
    count = int(np.count_nonzero(code == value))
    if count or len(names) < 2:
      found.append((name if len(names) != 1 else f"{name} only", count))
  return found


def _size_then_order(value: int) -> tuple[bool, int, int]:
  """Sorts single parts first, then pairs, all of them, and none last."""
  return value == 0, value.bit_count(), value
