"""The section of the report on groups of items in everybody's lists."""

from bigrec_jax.results import item_fairness, main_rows, page

_FIRST = "--config.ground.item_fairness=10 and --mode=ground_eval make it."


def of_items(found: item_fairness.FairnessFile | None) -> page.Html:
  """Returns a table for each way to group items, a ranker a row.

  Args:
    found: metrics/item_fairness.json; None where there is none.
  """
  if found is None or not found.rows:
    return page.missing("lists of every ranker by groups of items", _FIRST)
  most = max(row.k for row in found.rows)
  parts: list[object] = [
    page.paragraph(
      f"How the items in the first {most} of {found.n:,} lists of {found.split}"
      " are shared among groups, beside the items of their histories."
      " MGU is the mean distance between the two shares over groups, DGU the"
      " largest difference of distances; 0 is a list like the histories. Lists"
      " are those that rows are ranked by: the history stays in them, each"
      " title once. A row with a gamma for each K has no list of its own."
    )
  ]
  for grouping, had in found.histories.items():
    own = [row for row in found.rows if row.grouping == grouping]
    shown = [row for row in own if row.k == most]
    empty: list[object] = ["", ""]
    lines: list[list[object]] = [["histories", *empty, *had.values()]]
    for row in shown:
      name = main_rows.label(row.ranker)
      numbers = [row.shares.get(group) for group in had]
      lines.append([name, _with(row, "mgu"), _with(row, "dgu"), *numbers])
    headers = ["ranker", f"MGU@{most}", f"DGU@{most}", *had]
    caption = f"By {grouping}; small: 95 % interval by bootstrap over users."
    parts.append(page.table(headers, lines, caption))
  return page.join(parts)


def _with(row: item_fairness.Row, name: str) -> page.Html:
  low, high = row.ci95[name]
  small = page.element("span", f"{low:.3f}–{high:.3f}", "ci")
  return page.join([getattr(row, name), small])
