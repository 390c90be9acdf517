"""The section of the report on how strongly to inject."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigrec_jax.results import ground_file, page, plots, run_data

_CURVE_CUTOFFS = ("1", "5", "10", "20", "50")
_CHOSEN_BY = "20"  # The cutoff of the NDCG that pairs are chosen by.
# Gammas of popularity shown beside the one chosen, on either side of it.
_NEIGHBOURS = 2


def gamma_curves(data: run_data.RunData) -> page.Html:
  """Returns metrics on valid against gamma for each injection."""
  parts = [] if data.ground is None else _figures(data.ground)
  if not parts:
    return page.missing(
      "gamma curves", "Of an injection. --mode=ground_eval makes it."
    )
  return page.join(parts)


def _figures(ground: ground_file.GroundFile) -> list[page.Html]:
  """Returns the figures of every injection that gammas were tried for."""
  found = []
  for name in run_data.INJECTIONS:
    if name in ground.gamma_curves:
      found.append(_gamma_figure(ground, name, ground.gamma_curves[name]))
    if name in ground.gamma_pairs:
      found.append(_pair_figure(name, ground.gamma_pairs[name]))
  return found


def _gamma_figure(
  ground: ground_file.GroundFile, injection: str, curve: ground_file.Curve
) -> page.Html:
  panels = []
  rows = ground.rows_of(injection=injection, protocol="bigrec")
  by_metric = (row.gamma for row in rows if isinstance(row.gamma, Mapping))
  chosen: Mapping[str, Any] = next(by_metric, {})
  for metric, values in (("ndcg", curve.ndcg), ("hr", curve.hr)):
    ks = [k for k in _CURVE_CUTOFFS if k in values] or list(values)
    lines, marks = [], []
    for number, k in enumerate(ks):
      x, y = list(curve.gamma), values[k]
      lines.append(plots.Line(f"K={k}", f"K = {k}", x, y))
      gamma = chosen.get(metric, {}).get(k)
      if gamma in x:
        marks.append((number, gamma, y[x.index(gamma)]))
    title = f"{metric.upper()}@K on valid"
    panels.append(plots.Panel(title, "gamma", lines, "symlog", (), True, marks))
  label = run_data.INJECTIONS[injection]
  name = "gamma-" + injection.replace("+", "-")
  svg = plots.curves(name, f"{label}: metrics on valid by gamma", panels)
  return page.figure(svg, f"{label}. Rings: the gamma used on test for that K.")


def _pair_figure(injection: str, pairs: ground_file.Pairs) -> page.Html:
  """Returns NDCG against CF's gamma, a line for a few of popularity's."""
  k = _CHOSEN_BY
  values = np.array(pairs.ndcg[k])
  popularity, cf = np.array(pairs.popularity), np.array(pairs.cf)
  best = int(values.argmax())
  lines: list[plots.Line] = []
  marks: list[tuple[int, float, float]] = []
  for gamma in _shown(popularity, popularity[best]):
    own = popularity == gamma
    name = f"{gamma:g}"
    x, y = cf[own].tolist(), values[own].tolist()
    if gamma == popularity[best]:
      marks.append((len(lines), cf[best], values[best]))
    lines.append(plots.Line(name, f"popularity's gamma {name}", x, y))
  title = f"NDCG@{k} on valid"
  panel = plots.Panel(title, "gamma of CF", lines, "symlog", (), True, marks)
  label = run_data.INJECTIONS[f"{injection}:two_gammas"]
  svg = plots.curves(
    "two-gammas", f"{label}: NDCG@{k} on valid by gamma", [panel]
  )
  return page.figure(
    svg,
    f"{label}. Ring: the best of the {len(values):,} pairs that were tried,"
    " used on test.",
  )


def _shown(gammas: np.ndarray, chosen: float) -> Sequence[float]:
  """Returns the chosen gamma, 0 and some on either side, ascending.

  Args:
    gammas: [Q] of every pair; those tried with few others make no line.
    chosen: one of them.
  """
  unique, counts = np.unique(gammas, return_counts=True)
  whole = unique[(counts == counts.max()) | (unique == chosen)]
  place = int(np.flatnonzero(whole == chosen)[0])
  first = max(0, place - _NEIGHBOURS)
  near = whole[first : place + _NEIGHBOURS + 1].tolist()
  return sorted({0.0, *near} & set(whole.tolist()) | {chosen})
