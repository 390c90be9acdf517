"""Plots as inline SVG strings, drawn by matplotlib.

Colours are those of Okabe and Ito (2008), which people with any kind of colour
blindness tell apart; each system also has a marker and a dash of its own, so
that the plots survive a black-and-white printer.
"""

import contextlib
import dataclasses
import html
import io
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

_MOST_LABELS = 30  # Bars with their values above them; more would touch.
_INK = "#1c2530"
_SOFT = "#4a5563"
_GRID = "#e3e7ec"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#B8860B", "#56B4E9")
_MARKERS = "osD^vP"
# Other systems, say CF models: apart from all that is fixed below.
_OTHERS = (
  ("#B8860B", "v", "-."),
  ("#56B4E9", "P", "-."),
  ("#882255", "<", "-."),
  ("#999933", ">", "-."),
)
# Systems that come in every report look the same in all its plots.
_FIXED = {
  "none": ("#0072B2", "o", "-"),
  "popularity": ("#D55E00", "s", "-"),
  "cf": ("#009E73", "D", "-"),
  "popularity+cf": ("#AA4499", "^", "-"),
  "popularity+cf:two_gammas": ("#AA4499", "v", "--"),
  "most_popular": ("#6b7480", "x", "--"),
  "random": ("#9aa3ad", ".", ":"),
  "bm25": ("#7a5c3e", "2", "--"),
  "bm25+cf": ("#7a5c3e", "3", ":"),
  "cf_alone": ("#5b7553", "1", "-."),
  "oracle": ("#1c2530", "*", "--"),
  "oracle_mean_taste": ("#1c2530", "+", ":"),
}
_STYLE: dict[Any, Any] = {  # The stubs have a name for each key.
  "font.family": "sans-serif",
  "font.size": 10,
  "svg.fonttype": "none",  # Real text: it can be read, searched, scaled.
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.edgecolor": _SOFT,
  "axes.labelcolor": _SOFT,
  "axes.titlesize": 10.5,
  "axes.titlelocation": "left",
  "axes.grid": True,
  "axes.axisbelow": True,
  "grid.color": _GRID,
  "text.color": _INK,
  "xtick.color": _SOFT,
  "ytick.color": _SOFT,
  "legend.frameon": False,
  "legend.labelcolor": _INK,
}


@dataclasses.dataclass(frozen=True)
class Line:
  """One curve: `key` decides its look, `label` stands in the legend."""

  key: str
  label: str
  x: Sequence[float]
  y: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Panel:
  """One pair of axes.

  Attributes:
    title: stands above.
    x_label: of the x axis.
    lines: the curves.
    x_scale: "linear", "log" or "symlog".
    ticks: positions to label on the x axis; empty = matplotlib's choice.
    y_from_zero: whether the y axis begins at 0.
    marks: (line number, x, y) of points to ring.
  """

  title: str
  x_label: str
  lines: Sequence[Line]
  x_scale: str = "linear"
  ticks: Sequence[float] = ()
  y_from_zero: bool = True
  marks: Sequence[tuple[int, float, float]] = ()


def _looks(keys: Sequence[str]) -> list[tuple[str, str, str]]:
  """Returns (colour, marker, dash) of each key, all different.

  Keys that are all unknown, as cutoffs are, get the bold palette.
  """
  unknown = [key for key in keys if key not in _FIXED]
  if len(unknown) == len(keys):
    bold = [(c, m, "-") for c, m in zip(_COLOURS, _MARKERS, strict=True)]
    return [bold[n % len(bold)] for n in range(len(keys))]
  return [
    _FIXED.get(key) or _OTHERS[unknown.index(key) % len(_OTHERS)]
    for key in keys
  ]


@contextlib.contextmanager
def _style(name: str) -> Iterator[None]:
  import matplotlib  # Slow to import, and only the report draws.

  # Neither a date nor a random salt: the same data give the same bytes.
  with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
    yield


def curves(name: str, description: str, panels: Sequence[Panel]) -> str:
  """Draws panels side by side with one legend above them.

  Args:
    name: unique in the page; keeps the element ids of two plots apart.
    description: read out instead of the picture.
    panels: what to draw, left to right.

  Returns:
    An `<svg>` element.
  """
  with _style(name):
    figure, axes = _figure(len(panels), height=3.6)
    handles: dict[str, Any] = {}
    for axis, panel in zip(axes, panels, strict=True):
      _draw(axis, panel, handles)
    _legend(figure, handles)
    return _svg(figure, name, description)


def _draw(axis: "Axes", panel: Panel, handles: dict[str, Any]) -> None:
  looks = _looks([line.key for line in panel.lines])
  for line, (colour, marker, dash) in zip(panel.lines, looks, strict=True):
    dense = len(line.x) > 24  # Markers on every point would be a ribbon.
    (handle,) = axis.plot(
      line.x,
      line.y,
      color=colour,
      linestyle=dash,
      linewidth=1.3 if dense else 1.8,
      marker=None if dense else marker,
      markersize=5.5,
    )
    handles.setdefault(line.label, handle)
  for number, x, y in panel.marks:
    axis.plot([x], [y], "o", ms=9, mfc="none", mec=looks[number][0], mew=1.8)
  axis.set_title(panel.title)
  axis.set_xlabel(panel.x_label)
  if panel.x_scale == "symlog":
    axis.set_xscale("symlog", linthresh=0.1)
    axis.set_xlim(left=0)
  else:
    axis.set_xscale(panel.x_scale)
  if panel.x_scale == "linear":
    locator: Any = axis.xaxis.get_major_locator()  # A MaxNLocator.
    locator.set_params(integer=True)
  if panel.ticks:
    axis.set_xticks(panel.ticks, [f"{tick:g}" for tick in panel.ticks])
    axis.minorticks_off()
  if panel.y_from_zero:
    axis.set_ylim(bottom=0)


@dataclasses.dataclass(frozen=True)
class Interval:
  """A difference with its interval; a strong one is filled."""

  label: str
  value: float
  low: float
  high: float
  strong: bool


def intervals(
  name: str, description: str, marks: Sequence[Interval], x_label: str
) -> str:
  """Draws intervals one below the other, with a line at 0.

  Args:
    name: unique in the page.
    description: read out instead of the picture.
    marks: from top to bottom.
    x_label: of the x axis.

  Returns:
    An `<svg>` element.
  """
  with _style(name):
    figure, (axis,) = _figure(1, height=0.8 + 0.24 * len(marks))
    for place, mark in enumerate(marks):
      colour = _COLOURS[0] if mark.strong else _SOFT
      fill = colour if mark.strong else "white"
      axis.plot([mark.low, mark.high], [place] * 2, color=colour, lw=1.6)
      axis.plot([mark.value], [place], "o", ms=5.5, mec=colour, mfc=fill)
    axis.axvline(0, color=_INK, lw=0.9)
    axis.set_yticks(range(len(marks)), [mark.label for mark in marks])
    axis.set_ylim(len(marks) - 0.4, -0.6)
    axis.set_xlabel(x_label)
    axis.grid(axis="y", visible=False)
    return _svg(figure, name, description)


def bars(
  name: str,
  description: str,
  groups: Sequence[str],
  series: Sequence[tuple[str, str, Sequence[float]]],
  y_label: str,
) -> str:
  """Draws grouped bars.

  Args:
    name: unique in the page.
    description: read out instead of the picture.
    groups: names below the groups.
    series: (key, label, value of each group).
    y_label: of the y axis.

  Returns:
    An `<svg>` element.
  """
  with _style(name):
    figure, (axis,) = _figure(1, height=3.4)
    width = 0.8 / max(len(series), 1)
    handles: dict[str, Any] = {}
    looks = _looks([key for key, _, _ in series])
    for number, (_, label, values) in enumerate(series):
      offset = (number - (len(series) - 1) / 2) * width
      places = [n + offset for n in range(len(groups))]
      drawn = axis.bar(places, values, width * 0.92, color=looks[number][0])
      if len(groups) * len(series) <= _MOST_LABELS:
        axis.bar_label(
          drawn, fmt="%.2f", fontsize=7.5, padding=1.5, color=_SOFT
        )
      handles[label] = drawn
    axis.set_xticks(range(len(groups)), groups)
    axis.set_ylabel(y_label)
    axis.grid(axis="x", visible=False)
    highest = max((v for _, _, values in series for v in values), default=0)
    axis.set_ylim(0, 1.12 * highest or 1)
    _legend(figure, handles)
    return _svg(figure, name, description)


def _figure(panels: int, height: float) -> tuple["Figure", list["Axes"]]:
  from matplotlib import figure as figure_lib

  figure = figure_lib.Figure(figsize=(9.6, height), layout="constrained")
  return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _legend(figure: "Figure", handles: dict[str, Any]) -> None:
  short = all(len(label) < 12 for label in handles)
  figure.legend(
    list(handles.values()),
    list(handles),
    loc="outside upper left",
    ncols=min(len(handles), 8 if short else 4),
    fontsize=9.5,
    handlelength=2.4,
  )


def _svg(figure: "Figure", name: str, description: str) -> str:
  """Returns the figure as an element that can stand in a page with others."""
  buffer = io.StringIO()
  figure.savefig(buffer, format="svg", metadata={"Date": None})
  svg = buffer.getvalue()
  svg = svg[svg.index("<svg") :]
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
  # Ids are global in a page, and every plot has an "axes_1".
  svg = re.sub(r'\bid="', f'id="{name}-', svg)
  svg = re.sub(r'href="#', f'href="#{name}-', svg)
  svg = svg.replace("url(#", f"url(#{name}-")
  # The width and height in points would beat the style sheet.
  svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
  svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
  label = html.escape(description)
  return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
