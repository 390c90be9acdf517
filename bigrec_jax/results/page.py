"""The HTML page: one file, no script, nothing loaded from elsewhere.

Everything that comes from data is escaped here, in `text`, and only here;
the functions below return safe HTML and take either plain values or `Html`.
"""

import html
from collections.abc import Iterable, Sequence

from bigrec_jax import errors
from bigrec_jax.results import page_style


class Html(str):
  """Text that is HTML already."""


def text(value: object) -> Html:
  """Returns any value as safe HTML; `Html` stays as it is."""
  if isinstance(value, Html):
    return value
  if value is None:
    return Html('<span class="none">–</span>')
  if isinstance(value, float):
    return Html(f"{value:.4f}")
  if isinstance(value, int) and not isinstance(value, bool):
    return Html(f"{value:,}")
  return Html(html.escape(errors.one_line(str(value))))


def join(parts: Iterable[object]) -> Html:
  """Returns the parts one after the other."""
  return Html("".join(text(part) for part in parts))


def element(tag: str, content: object, css_class: str = "") -> Html:
  """Returns `<tag class="...">content</tag>`."""
  attribute = f' class="{html.escape(css_class)}"' if css_class else ""
  return Html(f"<{tag}{attribute}>{text(content)}</{tag}>")


def paragraph(content: object, css_class: str = "") -> Html:
  """Returns a paragraph."""
  return element("p", content, css_class)


def link(address: str, content: object) -> Html:
  """Returns a link to a page beside this one."""
  return Html(f'<a href="{html.escape(address)}">{text(content)}</a>')


def listing(items: Iterable[object], ordered: bool = False) -> Html:
  """Returns a list."""
  tag = "ol" if ordered else "ul"
  return element(tag, join(element("li", item) for item in items))


def table(
  headers: Sequence[object],
  rows: Sequence[Sequence[object]],
  caption: str,
  row_classes: Sequence[str] = (),
) -> Html:
  """Returns a table whose first column heads the rows.

  Args:
    headers: of the columns.
    rows: cells; the first of a row is its heading.
    caption: what the table shows; also for screen readers.
    row_classes: CSS classes of the rows, or none.
  """
  head = join(Html(f'<th scope="col">{text(h)}</th>') for h in headers)
  body = []
  for number, row in enumerate(rows):
    css_class = row_classes[number] if row_classes else ""
    first = Html(f'<th scope="row">{text(row[0])}</th>')
    rest = join(element("td", cell) for cell in row[1:])
    body.append(element("tr", join([first, rest]), css_class))
  inner = join(
    [
      element("caption", element("span", caption)),
      element("thead", element("tr", head)),
      element("tbody", join(body)),
    ]
  )
  # Wide tables scroll on their own, never the page.
  return element("div", element("table", inner), "scroll")


def figure(svg: str, caption: object) -> Html:
  """Returns an inline SVG with a caption."""
  return element(
    "figure", join([Html(svg), element("figcaption", caption)]), ""
  )


def tiles(entries: Sequence[tuple[object, object, object]]) -> Html:
  """Returns headline figures: (name, value, remark)."""
  cells = [
    element(
      "div",
      join(
        [
          element("dt", name),
          element("dd", value),
          element("p", remark, "remark"),
        ]
      ),
      "tile",
    )
    for name, value, remark in entries
  ]
  return element("dl", join(cells), "tiles")


def details(summary: object, content: object) -> Html:
  """Returns content that is folded at first."""
  return element("details", join([element("summary", summary), content]))


def missing(what: str, how: str) -> Html:
  """Returns a note on a part that cannot be shown, and what would make it."""
  return paragraph(f"Not here: {what}. {how}", "missing")


def section(anchor: str, title: str, content: object) -> Html:
  """Returns a section with a heading that the navigation links to."""
  return Html(
    f'<section id="{html.escape(anchor)}"><h2>{html.escape(title)}</h2>'
    f"{text(content)}</section>"
  )


def document(
  title: str, lead: object, sections: Sequence[tuple[str, str, object]]
) -> str:
  """Returns the whole page.

  Args:
    title: of the page.
    lead: what stands below the title.
    sections: (anchor, title, content) in order.
  """
  links = join(
    element("li", Html(f'<a href="#{html.escape(a)}">{text(t)}</a>'))
    for a, t, _ in sections
  )
  body = join(section(*entry) for entry in sections)
  return (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{text(title)}</title>\n<style>{page_style.CSS}</style>\n</head>\n<body>\n"
    f"<header><h1>{text(title)}</h1>{text(lead)}</header>\n"
    f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n'
    f"<main>{body}</main>\n</body>\n</html>\n"
  )
