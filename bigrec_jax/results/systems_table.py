"""The tables of all systems on test: each once, with an interval."""

from collections.abc import Sequence

from bigrec_jax.results import intervals, page, run_data

_TITLES = {"hr": "Hit rate", "ndcg": "NDCG"}
# With which each system stands in the first table; the others lie folded.
_FIRST = ("", "single_gamma", "two_gammas")


def tables(found: Sequence[run_data.System], users: int | None) -> page.Html:
  """Returns the tables of a split's systems.

  Args:
    found: of `run_data.systems`.
    users: of the split; None = not known.
  """
  first, rest = once(found)
  parts: list[object] = [
    *(_table(first, metric, users) for metric in run_data.METRICS),
    _notes(first),
  ]
  if rest:
    both = page.join(
      [
        page.paragraph(
          "The published procedure chooses gamma anew for each metric and K, so"
          " such a row is no single list: its HR@10 and its HR@20 are of"
          " different orders of the items, and a larger K may even have fewer"
          " hits than a smaller one. Lists are made with one gamma, as above."
        ),
        *(_table(rest, metric, users) for metric in run_data.METRICS),
      ]
    )
    parts.append(page.details("With a gamma for each metric and K", both))
  return page.join(parts)


def once(
  found: Sequence[run_data.System],
) -> tuple[list[run_data.System], list[run_data.System]]:
  """Returns each system once, as lists are made with it, and what is left.

  Args:
    found: of `run_data.systems`.
  """
  named = {one.key for one in found if one.protocol in _FIRST}
  # Of an evaluation without single gammas what there is.
  first = [
    one for one in found if one.protocol in _FIRST or one.key not in named
  ]
  return first, [one for one in found if one not in first]


def _table(
  found: Sequence[run_data.System], metric: str, users: int | None
) -> page.Html:
  ks = run_data.cutoffs(found)
  rated = [s for s in found if s.kind != "oracle"]
  best = {k: max((s.get(metric, k) or 0.0) for s in rated) for k in ks if rated}
  rows = [
    [s.label, *(_value(s, metric, k, best.get(k), users) for k in ks)]
    for s in found
  ]
  return page.table(
    ["", *(f"{metric.upper()}@{k}" for k in ks)],
    rows,
    f"{_TITLES[metric]} on test, higher is better; best of each column in bold."
    " Small: 95 % interval, by bootstrap over users; of no hit at all the exact"
    " one.",
    [system.kind for system in found],
  )


def _value(
  system: run_data.System,
  metric: str,
  k: int,
  best: float | None,
  users: int | None,
) -> page.Html:
  value = system.get(metric, k)
  bold = value and system.kind != "oracle" and value == best
  shown = page.element("span", value, "best" if bold else "")
  if value is None:
    return shown
  known = system.ci95.get(metric, {}).get(str(k))
  parts = [shown]
  if ends := intervals.of_value(metric, value, users, known):
    low, high = ends
    parts.append(page.element("span", f"{low:.3f}–{high:.3f}", "ci"))
  spread = system.deviation.get(metric, {}).get(str(k))
  if spread is not None:
    parts.append(page.element("span", f"seeds ± {spread:.4f}", "ci"))
  return page.join(parts)


def _notes(found: Sequence[run_data.System]) -> page.Html:
  notes = [
    f"{label}: {run_data.PROTOCOLS[name]}."
    for name, label in (
      ("single_gamma", "Injections"),
      ("two_gammas", "Two gammas"),
      ("bigrec", "Injections"),
    )
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
