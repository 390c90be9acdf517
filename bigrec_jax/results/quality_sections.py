"""Sections of the report on what was recommended and how well."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bigrec_jax.data.text import prompts
from bigrec_jax.results import metrics, page, plots, run_data
from bigrec_jax.workdir import origins

_HEADLINE_K = 10
_GROUND_FIRST = "--mode=ground_eval makes it."


def headline(data: run_data.RunData) -> page.Html:
  """Returns the tiles and the table of all systems on test."""
  found = run_data.systems(data, "test")
  parts: list[object] = [page.tiles(_tiles(data, found))]
  if found:
    parts += [_systems_table(found, metric) for metric in run_data.METRICS]
    parts.append(_table_notes(found))
  if data.ground is not None and data.ground.base_origin:
    line = origins.describe(data.ground.base_origin)
    note = f"All rows of BIGRec are those of a dequantised copy of {line}."
    parts.append(page.paragraph(note))
  if not any(system.kind == "bigrec" for system in found):
    parts.append(page.missing("test results of BIGRec", _GROUND_FIRST))
  if not any(system.kind == "baseline" for system in found):
    parts.append(
      page.missing("baselines", "ground_eval and train_cf add them.")
    )
  return page.join(parts)


def _chosen(
  data: run_data.RunData, found: Sequence[run_data.System], k: int
) -> run_data.System | None:
  """Returns the way of injection that valid prefers, or BIGRec without any.

  Choosing by the test figures would be choosing after the fact.
  """
  plain = next((s for s in found if s.key == "none"), None)
  best, choice = -1.0, plain
  curves = {} if data.ground is None else data.ground.gamma_curves
  for name, curve in curves.items():
    values = curve.hr.get(str(k), [])
    system = next(
      (s for s in found if s.kind == "bigrec" and s.key == name), None
    )
    if system and values and max(values) > best:
      best, choice = max(values), system
  return choice


def _tiles(
  data: run_data.RunData, found: Sequence[run_data.System]
) -> list[tuple[object, object, object]]:
  entries: list[tuple[object, object, object]] = []
  k = _HEADLINE_K
  plain = next((s for s in found if s.key == "none"), None)
  if plain and plain.get("hr", k) is not None:
    entries.append((f"HR@{k} of BIGRec", plain.get("hr", k), "no injection"))
  chosen = _chosen(data, found, k)
  value = chosen.get("hr", k) if chosen else None
  if chosen and value is not None:
    if chosen is not plain:
      remark = chosen.label.removeprefix("BIGRec + ") + ", as valid prefers"
      entries.append((f"HR@{k} with injection", value, remark))
    for key, name, of in (
      ("most_popular", "Against most popular", "{0:.1f} ×"),
      ("oracle", "Of what is possible", "{0:.0%}"),
    ):
      other = next((s for s in found if s.key == key), None)
      if other and (against := other.get("hr", k)):
        remark = ("of the oracle's " if key == "oracle" else "by ") + f"HR@{k}"
        entries.append((name, of.format(value / against), remark))
  rate = run_data.exact_title_rate(data)
  remark = "first hypotheses that are catalogue titles"
  entries.append(
    ("Exact titles", "unknown" if rate is None else f"{rate:.1%}", remark)
  )
  return entries


def _systems_table(found: Sequence[run_data.System], metric: str) -> page.Html:
  ks = run_data.cutoffs(found)
  rated = [s for s in found if s.kind != "oracle"]
  best = {k: max((s.get(metric, k) or 0.0) for s in rated) for k in ks if rated}
  rows = []
  for system in found:
    name: object = system.label
    if system.protocol:
      name = page.join([name, page.element("span", system.protocol, "ci")])
    cells = [_value(system, metric, k, best.get(k)) for k in ks]
    rows.append([name, *cells])
  title = {"hr": "Hit rate", "ndcg": "NDCG"}[metric]
  return page.table(
    ["", *(f"{metric.upper()}@{k}" for k in ks)],
    rows,
    f"{title} on test, higher is better; best of each column in bold, small:"
    " 95 % interval by bootstrap over users.",
    [system.kind for system in found],
  )


def _value(
  system: run_data.System, metric: str, k: int, best: float | None
) -> page.Html:
  value = system.get(metric, k)
  bold = value and system.kind != "oracle" and value == best
  shown = page.element("span", value, "best" if bold else "")
  interval = system.ci95.get(metric, {}).get(str(k))
  if interval is None:
    return shown
  low, high = interval
  small = page.element("span", f"{low:.3f}–{high:.3f}", "ci")
  return page.join([shown, small])


def _table_notes(found: Sequence[run_data.System]) -> page.Html:
  notes = [
    f"{name}: {run_data.PROTOCOLS[name]}."
    for name in run_data.PROTOCOLS
    if any(system.protocol == name for system in found)
  ]
  if any(system.kind == "oracle" for system in found):
    notes.append(
      "The oracle ranks by the probabilities that the data were drawn from;"
      " nothing can do better on average."
    )
  if any(system.protocol for system in found):
    notes.append(
      "The nearest item has a normalised distance of 0, so no injection changes"
      " HR@1 or NDCG@1."
    )
  return page.listing(notes)


def _line(
  system: run_data.System, metric: str, ks: Sequence[int]
) -> plots.Line:
  """Returns a system's metric at those of the cutoffs where it is known."""
  known = [(k, v) for k in ks if (v := system.get(metric, k)) is not None]
  x, y = [k for k, _ in known], [value for _, value in known]
  return plots.Line(system.key, system.label, x, y)


def metric_curves(data: run_data.RunData) -> page.Html:
  """Returns HR and NDCG against K with and without injection."""
  systems = run_data.systems(data, "test")
  by_cutoff = any(s.protocol == "bigrec" for s in systems)
  found = [
    s
    for s in systems
    if s.protocol in ("", "bigrec", "two_gammas") or not by_cutoff
  ]
  ks = run_data.cutoffs(found)
  if not found or len(ks) < 2:
    return page.missing("metrics at several cutoffs", _GROUND_FIRST)
  panels = []
  for metric in ("hr", "ndcg"):
    lines = [_line(system, metric, ks) for system in found]
    title = f"{metric.upper()}@K on test"
    panels.append(plots.Panel(title, "K", lines, "log", ks))
  svg = plots.curves("curves", "HR and NDCG against K on test", panels)
  return page.figure(
    svg,
    "Every system of the tables above. Where gamma had to be chosen, it was"
    " chosen for each metric and K on valid (protocol bigrec); two gammas are"
    " one pair for all.",
  )


def popularity_groups(data: run_data.RunData) -> page.Html:
  """Returns HR@10 on test by how popular the target is in train."""
  popularity = run_data.target_popularity(data)
  ranks = {k: v for k, v in data.ranks.items() if k in run_data.INJECTIONS}
  if popularity is None or not ranks:
    return page.missing("ranks of the test users", _GROUND_FIRST)
  ranks = {k: v for k, v in ranks.items() if len(v) == len(popularity)}
  if not ranks:
    return page.missing(
      "ranks that fit the predictions", "Run --mode=ground_eval again."
    )
  groups = _groups(data, popularity)
  k = _HEADLINE_K
  series = [
    (name, label, [metrics.hit_rate(ranks[name][m], k) for _, m in groups])
    for name, label in run_data.INJECTIONS.items()
    if name in ranks
  ]
  names = [f"{name}\n{int(mask.sum()):,} users" for name, mask in groups]
  svg = plots.bars(
    "groups", f"HR@{k} by popularity of the target", names, series, f"HR@{k}"
  )
  caption = (
    "Items are put in four equal groups by their number of interactions in"
    " train; items without any are apart. Injection at its single gamma, or at"
    " its two. Rare"
    " items are where a language model can help and injected popularity costs."
  )
  table = page.table(
    ["target", "test users", *(label for _, label, _ in series)],
    [
      [name, int(mask.sum()), *(values[n] for _, _, values in series)]
      for n, (name, mask) in enumerate(groups)
    ],
    f"HR@{k} by popularity of the target.",
  )
  return page.join(
    [page.figure(svg, caption), page.details("The figures", table)]
  )


def _groups(
  data: run_data.RunData, popularity: np.ndarray
) -> list[tuple[str, np.ndarray]]:
  """Returns (name, mask over users) of the groups that have any user."""
  items = np.array([row.get("popularity", 0) for row in data.catalogue])
  seen = items[items > 0]
  found = [("never in train", popularity == 0)]
  if seen.size:
    edges = np.quantile(seen, [0.25, 0.5, 0.75])
    group = np.searchsorted(edges, popularity, side="left")
    names = ("rarest quarter", "second", "third", "most popular quarter")
    for number, name in enumerate(names):
      found.append((name, (group == number) & (popularity > 0)))
  return [(name, mask) for name, mask in found if mask.any()]


def examples(data: run_data.RunData, count: int) -> page.Html:
  """Returns cards: history, written title, grounded items."""
  rate = run_data.exact_title_rate(data)
  parts: list[object] = []
  if rate is not None:
    parts.append(
      page.paragraph(
        f"{rate:.1%} of the first hypotheses are exact titles of the"
        f" catalogue ({len(data.predictions):,} test users)."
      )
    )
  if data.examples:
    cards = [_card(row) for row in data.examples[:count]]
    parts.append(page.element("div", page.join(cards), "cards"))
  elif data.predictions:
    rows = data.predictions[:count]
    cards = [_prediction_card(row) for row in rows]
    parts.append(page.missing("grounded items", _GROUND_FIRST))
    parts.append(page.element("div", page.join(cards), "cards"))
  else:
    parts.append(page.missing("predictions", "--mode=generate makes them."))
  return page.join(parts)


def _same(title: str, target: str) -> bool:
  return prompts.clean_title(title) == prompts.clean_title(target)


def _titles(titles: Sequence[str], target: str) -> page.Html:
  return page.listing(
    [
      page.element("span", title, "hit")
      if _same(title, target)
      else title or page.element("span", "(nothing)", "none")
      for title in titles
    ],
    ordered=True,
  )


def _card(row: dict[str, Any]) -> page.Html:
  target = row.get("target", "")
  history = row.get("history", [])
  written = row.get("predict", [])
  columns = []
  for name, titles in row.get("grounded", {}).items():
    rank = row.get("rank", {}).get(name)
    place = "" if rank is None else f"target at {rank + 1:,}"
    label = run_data.INJECTIONS.get(name, name)
    small = page.element("span", place, "ci")
    heading = page.element("h3", page.join([label, small]))
    columns.append(
      page.element("div", page.join([heading, _titles(titles, target)]))
    )
  return page.element(
    "article",
    page.join(
      [
        page.element("h3", "History, oldest first"),
        page.listing(history) if history else page.paragraph("empty"),
        page.element("h3", "Bought next"),
        page.paragraph(page.element("strong", target)),
        page.element("h3", "Written by the model"),
        _titles(written, target),
        page.element("div", page.join(columns), "columns"),
      ]
    ),
    "card",
  )


def _prediction_card(row: dict[str, Any]) -> page.Html:
  target = prompts.clean_title(row.get("output", ""))
  return page.element(
    "article",
    page.join(
      [
        page.element("h3", "Input"),
        page.paragraph(row.get("input", "")),
        page.element("h3", "Bought next"),
        page.paragraph(page.element("strong", target)),
        page.element("h3", "Written by the model"),
        _titles(row.get("predict", []), target),
      ]
    ),
    "card",
  )
