"""The first screen of the report: the answer, in a sentence and in tiles."""

from bigrec_jax.results import (
  answer as answer_lib,
  comparisons,
  cost_sections,
  intervals,
  page,
  run_data,
)

K = 10
Tile = tuple[object, object, object]


def section(data: run_data.RunData, price_per_hour: float) -> page.Html:
  """Returns the answer of a run whose titles are grounded.

  Args:
    data: the workdir.
    price_per_hour: of the machine; 0 = not known.
  """
  found = answer_lib.of_run(data, K)
  if found is None:
    what = "valid's results, by which a best system could be told"
    return page.missing(what, "--mode=ground_eval makes them.")
  ground = data.ground
  users = None if ground is None else ground.units("test")
  who = "the test users" if not ground or users is None else ground.who("test")
  tiles = [*_tiles(data, found, users), *_cost(data, price_per_hour)]
  return page.join(
    [
      page.paragraph(_sentence(found, users, who), "answer"),
      page.tiles(tiles),
      _rest(data, found),
    ]
  )


def _sentence(found: answer_lib.Answer, users: int | None, who: str) -> str:
  best, other, k = found.best, found.baseline, found.k
  value = best.get("hr", k) or 0.0
  name = best.label[0].upper() + best.label[1:]
  line = f"{name}, which valid likes best, hits {value:.1%} of {who}"
  line += f" within the first {k}"
  if ends := _ends(best, "hr", k, users):
    line += f" (95 % {ends[0]:.1%} to {ends[1]:.1%})"
  if other is None:
    return line + "; there is no baseline to compare with."
  against = other.get("hr", k)
  kind = "the strongest baseline"
  if other.kind != "baseline":
    kind = "the best of BIGRec's"
  if against is not None:
    line += f"; {other.label}, {kind}, {against:.1%}"
  if found.test is None:
    return line + ". No paired test: ranks of one of them are not kept."
  low, high = found.test.ci95
  points = 100 * found.test.difference
  return (
    f"{line}. It {found.verdict} {other.label}: {points:+.2f} points, 95 %"
    f" {100 * low:+.2f} to {100 * high:+.2f}, {_p(found)}."
  )


def _p(found: answer_lib.Answer) -> str:
  assert found.test is not None
  p = comparisons.in_words(found.test.p_holm)
  kind = "paired, after Holm" if found.corrected else "paired"
  return f"p {p}" + f" ({kind})"


def _ends(
  system: run_data.System, metric: str, k: int, users: int | None
) -> intervals.Interval | None:
  value = system.get(metric, k)
  if value is None:
    return None
  known = system.ci95.get(metric, {}).get(str(k))
  return intervals.of_value(metric, value, users, known)


def _tiles(
  data: run_data.RunData, found: answer_lib.Answer, users: int | None
) -> list[Tile]:
  best, other, k = found.best, found.baseline, found.k
  entries: list[Tile] = []
  for metric in run_data.METRICS:
    if (value := best.get(metric, k)) is not None:
      ends = _ends(best, metric, k, users)
      small = f"95 % {ends[0]:.4f}–{ends[1]:.4f}" if ends else best.label
      entries.append((f"{metric.upper()}@{k}, {best.label}", value, small))
  if other is not None and found.test is not None:
    low, high = found.test.ci95
    shown = f"{found.test.difference:+.4f}"
    small = f"HR@{k}, 95 % {low:+.4f} to {high:+.4f}; {_p(found)}"
    entries.append((f"Against {other.label}", shown, small))
  entries += _ratio(data, found)
  rate = run_data.exact_title_rate(data)
  if rate is not None:
    remark = "first hypotheses that are catalogue titles"
    entries.append(("Exact titles", f"{rate:.1%}", remark))
  return entries


def _ratio(data: run_data.RunData, found: answer_lib.Answer) -> list[Tile]:
  """Returns how far it is to what is possible, in a made-up world."""
  systems = run_data.systems(data, "test")
  oracle = next((s for s in systems if s.key == "oracle"), None)
  value = found.best.get("hr", found.k)
  limit = oracle.get("hr", found.k) if oracle else None
  if not limit or value is None:
    return []
  name = "Of what is possible"
  return [(name, f"{value / limit:.0%}", f"of the oracle's HR@{found.k}")]


def _cost(data: run_data.RunData, price_per_hour: float) -> list[Tile]:
  total = answer_lib.seconds(data.throughput)
  if total is None:
    return []
  shown = cost_sections.duration(total)
  money = cost_sections.money(total, price_per_hour)
  small = (
    f"all stages' last runs; {money}" if money else "all stages' last runs"
  )
  return [("Cost", shown, small)]


def _rest(data: run_data.RunData, found: answer_lib.Answer) -> page.Html:
  """Returns how BIGRec's own text stands where something else is best."""
  systems = run_data.systems(data, "test")
  plain = next((s for s in systems if s.row == "bigrec"), None)
  if plain is None or plain is found.best or plain.key == found.best.key:
    return page.Html("")
  value = plain.get("hr", found.k)
  if value is None:
    return page.Html("")
  line = (
    f"BIGRec's text alone, without any injection: HR@{found.k} {value:.4f}."
  )
  return page.paragraph(line)
