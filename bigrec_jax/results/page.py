"""The HTML page: one file, no script, nothing loaded from elsewhere.

Everything that comes from data is escaped here, in `text`, and only here;
the functions below return safe HTML and take either plain values or `Html`.
"""

import html
from collections.abc import Iterable, Sequence

from bigrec_jax import errors


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
    f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
    f"<header><h1>{text(title)}</h1>{text(lead)}</header>\n"
    f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n'
    f"<main>{body}</main>\n</body>\n</html>\n"
  )


# Text on white has a contrast of 7:1 and more (WCAG AAA), accents 4.5:1.
_STYLE = """
:root{color-scheme:light;--ink:#1c2530;--soft:#4a5563;--line:#d9dee5;
--paper:#fff;--ground:#f5f7f9;--accent:#005a8e;--tint:#e8f1f8}
*{box-sizing:border-box}
body{margin:0 auto;padding:0 1.25rem 4rem;max-width:72rem;color:var(--ink);
background:var(--ground);line-height:1.5;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,
"DejaVu Sans",sans-serif}
header{padding:2.25rem 0 .5rem}
h1{margin:0 0 .4rem;font-size:1.9rem;line-height:1.2;letter-spacing:-.01em}
h2{margin:0 0 .9rem;font-size:1.25rem}
h3{margin:1.5rem 0 .5rem;font-size:1rem}
p{margin:.4rem 0 .8rem;max-width:46rem}
header p{max-width:none}
header p,figcaption,caption,.remark{color:var(--soft)}
a{color:var(--accent)}
code{font-size:.92em;overflow-wrap:anywhere}
nav{position:sticky;top:0;z-index:1;background:var(--ground);
border-bottom:1px solid var(--line);margin-bottom:1.25rem}
nav ul{display:flex;flex-wrap:wrap;gap:.1rem 1rem;margin:0;padding:.6rem 0;
list-style:none;font-size:.92rem}
nav a{text-decoration:none}
nav a:hover,nav a:focus{text-decoration:underline}
section{background:var(--paper);border:1px solid var(--line);
border-radius:10px;padding:1.3rem 1.4rem;margin:0 0 1.25rem;
scroll-margin-top:3.2rem}
.tiles{display:grid;gap:.8rem;margin:0 0 1.2rem;
grid-template-columns:repeat(auto-fit,minmax(11rem,1fr))}
.tile{background:var(--tint);border-radius:8px;padding:.8rem 1rem}
.tile dt{font-size:.85rem;color:var(--soft)}
.tile dd{margin:.1rem 0;font-size:1.65rem;font-weight:650;line-height:1.2;
font-variant-numeric:tabular-nums}
.tile .remark{margin:0;font-size:.82rem}
.scroll{overflow-x:auto;margin:.4rem 0 1rem}
table{border-collapse:collapse;width:100%;font-size:.9rem;
font-variant-numeric:tabular-nums}
caption{text-align:left;padding:0 0 .5rem;font-size:.88rem}
caption span,figcaption{display:inline-block;position:sticky;left:0;
max-width:min(46rem,calc(100vw - 3.6rem))}
th,td{padding:.38rem .6rem;text-align:right;border-bottom:1px solid var(--line);
vertical-align:top;white-space:nowrap}
thead th{border-bottom:2px solid var(--line);font-weight:600}
tbody th{font-weight:500}
th:first-child{text-align:left;position:sticky;left:0;background:inherit}
tr{background:var(--paper)}
tr.bigrec,tr.system{background:var(--tint)}
tr.oracle th,tr.oracle td{color:var(--soft)}
tr:not(.oracle)+tr.oracle>*{border-top:2px solid var(--line)}
.wide td,.wide th{white-space:normal;text-align:left;overflow-wrap:anywhere}
.ci{display:block;color:var(--soft);font-size:.74rem}
.best{font-weight:700}
figure{margin:.6rem 0 1.2rem;overflow-x:auto}
figure svg{display:block;width:100%;height:auto;min-width:36rem}
figcaption{font-size:.88rem;margin-top:.3rem}
.missing{background:#fff7e6;border-left:4px solid #b87700;padding:.55rem .8rem}
.cards{display:grid;gap:1rem;
grid-template-columns:repeat(auto-fit,minmax(min(27rem,100%),1fr))}
.card{border:1px solid var(--line);border-radius:8px;padding:.2rem 1rem .7rem;
font-size:.9rem;overflow-wrap:anywhere}
.card ol,.card ul{margin:.2rem 0 .6rem;padding-left:1.6rem}
.card h3{margin:.7rem 0 .2rem;font-size:.85rem;color:var(--soft);
font-weight:600}
.card .columns{display:grid;gap:0 1rem;
grid-template-columns:repeat(auto-fit,minmax(11.5rem,1fr))}
.hit{background:#dcefe6;border-radius:4px;padding:0 .25rem;font-weight:600}
.none{color:var(--soft)}
details{margin:.5rem 0}
summary{cursor:pointer;color:var(--accent);font-weight:600}
@media (max-width:40rem){body{padding:0 .6rem 2rem}section{padding:1rem .8rem}
h1{font-size:1.5rem}.tile dd{font-size:1.35rem}nav{position:static}}
@media print{nav{display:none}section{break-inside:avoid;border:0}
body{background:#fff}}
"""
