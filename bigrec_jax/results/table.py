"""Tables for the terminal."""

from collections.abc import Sequence

from bigrec_jax import errors


def format_table(
  headers: Sequence[str], rows: Sequence[Sequence[object]]
) -> str:
  """Returns a plain aligned table: first column left, the others right.

  Floats are shown with four decimals, None as a dash.
  """
  cells = [[_cell(value) for value in row] for row in (headers, *rows)]
  widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
  lines = []
  for row in cells:
    first = row[0].ljust(widths[0])
    rest = [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
    lines.append("  ".join([first, *rest]).rstrip())
  lines.insert(1, "  ".join("-" * w for w in widths))
  return "\n".join(lines)


def _cell(value: object) -> str:
  if value is None:
    return "-"
  if isinstance(value, float):
    return f"{value:.4f}"
  return errors.one_line(str(value))
