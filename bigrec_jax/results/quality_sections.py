"""Sections of the report on what was recommended and how well."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bigrec_jax.data.text import prompts
from bigrec_jax.results import metrics, page, plots, run_data, systems_table
from bigrec_jax.workdir import origins

_HEADLINE_K = 10
_GROUND_FIRST = "--mode=ground_eval makes it."


def results(data: run_data.RunData) -> page.Html:
  """Returns the tables of all systems on test."""
  found = run_data.systems(data, "test")
  ground, parts = data.ground, list[object]()
  if found:
    users = None if ground is None else ground.units("test")
    parts.append(systems_table.tables(found, users))
  if ground is not None and ground.base_origin:
    line = origins.describe(ground.base_origin)
    note = f"All rows of BIGRec are those of a dequantised copy of {line}."
    parts.append(page.paragraph(note))
  if not any(system.kind == "bigrec" for system in found):
    parts.append(page.missing("test results of BIGRec", _GROUND_FIRST))
  if not any(system.kind == "baseline" for system in found):
    parts.append(
      page.missing("baselines", "ground_eval and train_cf add them.")
    )
  return page.join(parts)


def _line(
  system: run_data.System, metric: str, ks: Sequence[int]
) -> plots.Line:
  """Returns a system's metric at those of the cutoffs where it is known."""
  known = [(k, v) for k in ks if (v := system.get(metric, k)) is not None]
  x, y = [k for k, _ in known], [value for _, value in known]
  return plots.Line(system.key, system.label, x, y)


def metric_curves(data: run_data.RunData) -> page.Html:
  """Returns HR and NDCG against K with and without injection."""
  found, _ = systems_table.once(run_data.systems(data, "test"))
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
    "Every system of the tables above, as it stands there.",
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
  names = [f"{name}\n{int(mask.sum()):,} {data.noun}" for name, mask in groups]
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
    ["target", f"test {data.noun}", *(label for _, label, _ in series)],
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
        f" catalogue ({len(data.predictions):,} test {data.noun})."
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
