"""The section of the report on a task that isn't grounded to the catalogue."""

from collections.abc import Sequence

from bigrec_jax.results import intervals, page, rows


def results(task: str, found: Sequence[rows.TaskRow]) -> page.Html:
  """Returns the rows of metrics/<task>.json as a table a split.

  Args:
    task: its name.
    found: the rows; none where it wasn't evaluated.
  """
  if not found:
    return page.missing(f"metrics/{task}.json", "--mode=evaluate makes it.")
  parts: list[object] = []
  for split in dict.fromkeys(row.split for row in found):
    for own in rows.alike([row for row in found if row.split == split]):
      users = max((row.users or 0 for row in own), default=0)
      drawn = f"the {users:,} users of its samples" if users else "its samples"
      caption = (
        f"{split}, with 95 % bootstrap intervals over {drawn}; what chose an"
        " epoch or a setting is valid alone."
      )
      names = list(dict.fromkeys(name for row in own for name in row.metrics))
      lines = [
        [row.system, *(_value(row, name) for name in names), row.n]
        for row in own
      ]
      parts.append(page.table(["system", *names, "n"], lines, caption))
  return page.join(parts)


def _value(row: rows.TaskRow, name: str) -> str:
  """Returns a value with its interval, a dash where it wasn't measured."""
  if name not in row.metrics:
    return "-"
  value = f"{row.metrics[name]:.4f}"
  if name not in row.ci95:
    return value
  low, high = row.ci95[name]
  hits = name.startswith(("hr", "hit", "recall", "ndcg", "mrr"))
  if hits and low == high == 0 and row.n:  # Nobody was hit: see intervals.py.
    low, high = intervals.exact(0, row.users or row.n)
  return f"{value} ({low:.4f} to {high:.4f})"
