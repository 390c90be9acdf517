"""The tables of docs/quality.md, from committed cells alone.

A table stands between `<!-- NAME -->` and `<!-- end NAME -->`; `--table` prints
all, `--table --write` puts them into the page.
"""

import collections
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.quality import (
  cells,
  cf_cells,
  claims,
  datasets,
  segments,
  systems,
)
from bigrec_jax.results import comparisons

_HEADLINE = 10  # The cutoff whose intervals are shown.
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "quality.md"


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Returns a table."""
  lines = [f"| {' | '.join(row)} |" for row in (headers, *rows)]
  return "\n".join([lines[0], "|---" * len(headers) + "|", *lines[1:]])


def number(value: float) -> str:
  """Returns a share as text, without the 0 before its point."""
  return f"{value:.4f}".replace("0.", ".", 1)


def signed(value: float) -> str:
  """Returns a difference as text, with its sign."""
  return f"{value:+.4f}".replace("0.", ".", 1)


def interval_text(low: float, high: float) -> str:
  """Returns an interval of shares as text."""
  return f"{number(low)} to {number(high)}"


def _rows(count: int) -> str:
  return {-1: "all", 0: ""}.get(count, f"{count:,}")


def results(data: str, listed: Sequence[systems.System]) -> str:
  """Returns the table of a data set: every row, on test."""
  headers = ["test users", "train rows", "seeds"]
  for metric in ("HR", "NDCG"):
    headers += [f"{metric}@{k}" for k in cells.CUTOFFS]
  headers.append(f"HR@{_HEADLINE} 95 %")
  lines = [
    [
      one.title,
      _rows(one.rows),
      str(len(one.cells)),
      *(number(one.metric("test", "hr", k)) for k in cells.CUTOFFS),
      *(number(one.metric("test", "ndcg", k)) for k in cells.CUTOFFS),
      interval_text(*claims.interval(one.ranks, _HEADLINE, one.users))
      if one.has_ranks
      else "",
    ]
    for one in listed
    if one.data == data
  ]
  return markdown(headers, lines) if lines else "No cells yet."


def _find(
  listed: Sequence[systems.System], data: str, system: str, rows: int, row: str
) -> systems.System | None:
  for one in listed:
    if (one.data, one.system, one.rows, one.row) == (data, system, rows, row):
      return one
  return None


def _few(listed: Sequence[systems.System], data: str) -> systems.System | None:
  return _find(listed, data, systems.LM, cf_cells.FEW, "bigrec")


_HEADERS = ["data", "compared", *(f"HR@{k}" for k in cells.CUTOFFS)]
_HEADERS += [f"95 % at {_HEADLINE}", f"p at {_HEADLINE} (Holm)"]
_CLAIM = [*_HEADERS, "the claim"]
_ASKED = [*_HEADERS, "the first, beyond chance"]


def _answers(
  title: str,
  answers: Sequence[claims.Answer],
  summary: Callable[[Sequence[claims.Answer]], str] = claims.direction,
) -> list[list[str]]:
  """Returns a line for each name, its differences by cutoff."""
  lines = []
  for name in dict.fromkeys(answer.name for answer in answers):
    own = [answer for answer in answers if answer.name == name]
    shown = {answer.k: answer for answer in own}
    cells_of = [
      signed(shown[k].difference) + _stars(shown[k]) if k in shown else ""
      for k in cells.CUTOFFS
    ]
    headline = shown[_HEADLINE]
    low, high = headline.ci95
    ends = f"{signed(low)} to {signed(high)}"
    p = comparisons.in_words(headline.p_holm)
    lines.append([title, name, *cells_of, ends, p, summary(own)])
  return lines


def _stars(answer: claims.Answer) -> str:
  return "*" if answer.p_holm < claims.LEVEL else ""


def few_shot(listed: Sequence[systems.System]) -> str:
  """Does few-shot BIGRec beat few-shot CF at every K?"""
  lines = []
  for data, own in datasets.DATA.items():
    first = _few(listed, data)
    others = {
      one.title: one.ranks
      for one in listed
      if one.data == data
      and one.rows == cf_cells.FEW
      and one.system in cf_cells.NETWORKS
    }
    if first is not None and others:
      answers = claims.against(first.ranks, others, first.users)
      lines += _answers(own.title, answers, claims.verdict)
  return markdown(_CLAIM, lines) if lines else "No cells yet."


def words(listed: Sequence[systems.System]) -> str:
  """Does BM25 of titles beat ItemKNN, which counts purchases in all rows?"""
  lines = []
  for data, own in datasets.DATA.items():
    first = _find(listed, data, "bm25", 0, "bm25")
    other = _find(listed, data, "item_knn", cf_cells.ALL, "item_knn")
    if first is not None and other is not None:
      name = f"{first.title} less {other.title} of all rows"
      answers = claims.against(first.ranks, {name: other.ranks}, first.users)
      lines += _answers(own.title, answers)
  return markdown(_ASKED, lines) if lines else "No cells yet."


def more_rows(listed: Sequence[systems.System]) -> str:
  """What do more train rows bring to BIGRec, and to CF?"""
  lines = []
  for data, own in datasets.DATA.items():
    answers = []
    for one in listed:
      if one.data != data or not one.has_ranks or one.rows in (0, cf_cells.FEW):
        continue
      if one.row not in ("bigrec", one.system):
        continue
      few = _find(listed, data, one.system, cf_cells.FEW, one.row)
      if few is not None:
        name = f"{one.title}: {_rows(one.rows)} rows less {few.rows:,}"
        answers += claims.against(one.ranks, {name: few.ranks}, one.users)
    lines += _answers(own.title, claims.corrected(answers)) if answers else []
  return markdown(_ASKED, lines) if lines else "No cells yet."


def _injected(
  listed: Sequence[systems.System], first: systems.System
) -> dict[str, systems.System]:
  """Returns the injected rows of the same cells that have ranks."""
  return {
    one.title: one
    for one in listed
    if (one.data, one.system, one.rows)
    == (first.data, first.system, first.rows)
    and one.row.startswith("bigrec+")
    and one.has_ranks
  }


def injection(listed: Sequence[systems.System]) -> str:
  """Does injection help, more at large K, and does rank 1 never move?"""
  headers = ["data", "injected", *(f"HR@{k}" for k in cells.CUTOFFS)]
  headers += [
    "gain at 50 less gain at 5",
    "95 %",
    "p (Holm)",
    "more at large K",
  ]
  headers += ["hits at 1 that came or went"]
  lines = []
  for data, own in datasets.DATA.items():
    first = _few(listed, data)
    if first is None:
      continue
    others = _injected(listed, first)
    ranks = {name: one.ranks for name, one in others.items()}
    growth = {a.name: a for a in claims.grows(first.ranks, ranks, first.users)}
    by_k = collections.defaultdict(dict)
    for name, other in ranks.items():
      # Seeds of the two are the same runs: what each user gains is averaged.
      for k in cells.CUTOFFS:
        gain = claims.hits(other, k) - claims.hits(first.ranks, k)
        by_k[name][k] = float(gain.mean())
    for name in others:
      answer = growth[name]
      low, high = answer.ci95
      lines.append(
        [
          own.title,
          name,
          *(signed(by_k[name][k]) for k in cells.CUTOFFS),
          signed(answer.difference),
          f"{signed(low)} to {signed(high)}",
          comparisons.in_words(answer.p_holm),
          claims.verdict([answer]),
          f"{claims.moved(first.ranks, ranks[name])} of {first.ranks.size:,}",
        ]
      )
  return markdown(headers, lines) if lines else "No cells yet."


def best_single(
  listed: Sequence[systems.System], data: str
) -> systems.System | None:
  """Returns the one model that valid likes best (NDCG@20), whatever its rows.

  Of the language model only the few-shot run competes, since that is the part
  of what is compared with it.
  """
  single = [
    one
    for one in listed
    if one.data == data
    and one.row in ("bigrec", one.system)
    and (one.row != "bigrec" or one.rows == cf_cells.FEW)
    and one.system != "random"
  ]
  return max(
    single, key=lambda one: one.metric("valid", "ndcg", 20), default=None
  )


def against_best(listed: Sequence[systems.System]) -> str:
  """Is what combines several better than the best single model?"""
  lines = []
  for data, own in datasets.DATA.items():
    best = best_single(listed, data)
    if best is None or _few(listed, data) is None:
      continue
    answers = []
    for one in listed:
      is_part = one.row in ("bigrec", one.system)
      if one.data != data or is_part or one.rows != cf_cells.FEW:
        continue
      if one.has_ranks:
        name = f"{one.title} less {best.title}"
        answers += claims.against(one.ranks, {name: best.ranks}, one.users)
    lines += _answers(own.title, claims.corrected(answers)) if answers else []
  return markdown(_ASKED, lines) if lines else "No cells yet."


def by_segment(listed: Sequence[systems.System], folder: pathlib.Path) -> str:
  """Returns HR@10 of the segments of users."""
  groups = [
    ("target", segments.TARGETS),
    ("transition", segments.TRANSITIONS),
    ("history", segments.HISTORIES),
  ]
  headers = ["data", "test users: HR@10", "train rows"]
  headers += [f"{kind} {name}" for kind, names in groups for name in names]
  lines = []
  for data, own in datasets.DATA.items():
    users = cells.read_users(folder, data)
    if users is None:
      continue
    labels = {
      kind: cells.unpack(users["labels"]["test"][kind]) for kind, _ in groups
    }
    counts = [
      f"{int((labels[kind] == n).sum()):,}"
      for kind, names in groups
      for n in range(len(names))
    ]
    lines.append([own.title, "users", "", *counts])
    for one in listed:
      if one.data != data or not one.has_ranks:
        continue
      hit = claims.hits(one.ranks, 10).mean(axis=0)  # [N]
      cells_of = []
      for kind, names in groups:
        for n in range(len(names)):
          inside = labels[kind] == n
          mean = float(hit[inside].mean()) if inside.any() else None
          cells_of.append("" if mean is None else number(mean))
      lines.append([own.title, one.title, _rows(one.rows), *cells_of])
  return markdown(headers, lines) if lines else "No cells yet."


def settings(found: Sequence[dict[str, Any]]) -> str:
  """Returns what valid chose for each network, and of how many."""
  headers = ["data", "model", "train rows", "learning rate", "weight decay"]
  headers += ["tried", "epochs, by seed", "s to choose", "s a seed"]
  groups = collections.defaultdict(list)
  for cell in found:
    if cell["system"] in cf_cells.NETWORKS:
      groups[cell["data"], cell["system"], cell["rows"]].append(cell)
  lines = []
  for (data, system, rows), own in sorted(groups.items()):
    chosen = own[0]["settings"]
    lines.append(
      [
        datasets.DATA[data].title,
        systems.TITLES[system],
        _rows(rows),
        f"{chosen['learning_rate']:g}",
        f"{chosen['weight_decay']:g}",
        str(chosen["tried"]),
        "/".join(str(c["settings"]["epochs"]) for c in own),
        f"{chosen['seconds_to_choose']:.0f}",
        f"{np.mean([c['seconds']['train'] for c in own]):.0f}",
      ]
    )
  return markdown(headers, lines) if lines else "No cells yet."


def tries(found: Sequence[dict[str, Any]]) -> str:
  """Returns what was tried for the language model, by its loss on valid."""
  headers = ["data", "train rows", "seed", "rank", "learning rate", "epochs"]
  headers += ["valid loss after each epoch"]
  lines = [
    [
      datasets.DATA[cell["data"]].title,
      _rows(cell["rows"]),
      str(cell["seed"]),
      str(own["lora.rank"]),
      f"{own['train.learning_rate']:g}",
      str(own["train.num_epochs"]),
      ", ".join(f"{loss:.4f}" for loss in own["valid_loss"]),
    ]
    for cell in found
    if "valid_loss" in (own := cell["settings"])
  ]
  return markdown(headers, lines) if lines else "No cells yet."


_PROBED = {
  "exact": "second halves written exactly",
  "agreement": "their tokens in place",
  "log_probability": "nats a token",
}


def contamination(found: Sequence[dict[str, Any]]) -> str:
  """Can the base complete titles that it is later tested on?"""
  headers = ["data", "titles", "the base, without training", "own half"]
  headers += ["the pair's other half", "difference", "95 %", "p"]
  lines = []
  for cell in found:
    probe = cell["settings"].get("contamination")
    for key, title in _PROBED.items() if probe else ():
      own = probe[key]
      low, high = own["ci95"]
      lines.append(
        [
          datasets.DATA[cell["data"]].title,
          f"{probe['num_titles']:,} of {probe['eligible']:,}",
          title,
          f"{own['own']:.4f}",
          f"{own['exchanged']:.4f}",
          signed(own["difference"]),
          f"{signed(low)} to {signed(high)}",
          comparisons.in_words(own["p"]),
        ]
      )
  return markdown(headers, lines) if lines else "No cells yet."


def tables(folder: pathlib.Path) -> dict[str, str]:
  """Returns every table by its name."""
  found = cells.read_all(folder)
  whose = {data: cells.owners(folder, data) for data in datasets.DATA}
  listed = systems.listed(found, whose)
  return {
    **{data: results(data, listed) for data in datasets.DATA},
    "words": words(listed),
    "few-shot": few_shot(listed),
    "more rows": more_rows(listed),
    "injection": injection(listed),
    "best single": against_best(listed),
    "segments": by_segment(listed, folder),
    "settings of CF": settings(found),
    "settings of the language model": tries(found),
    "contamination": contamination(found),
  }


def filled(text: str, found: dict[str, str]) -> str:
  """Returns the page with these tables between its markers.

  Raises:
    ValueError: a table has no place in the page.
  """
  for name, table in found.items():
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end {name} -->"
    if begin not in text or end not in text.split(begin, 1)[1]:
      raise ValueError(f"no place for the table {name!r}")
    before, rest = text.split(begin, 1)
    text = f"{before}{begin}\n{table}\n{end}{rest.split(end, 1)[1]}"
  return text


def show(found: dict[str, str], page: pathlib.Path, write: bool) -> int:
  """Prints every table, or puts them into a page; returns the status."""
  if write:
    text = page.read_text(encoding="utf-8")
    page.write_text(filled(text, found), encoding="utf-8")
    print(f"wrote {page}")
    return 0
  for name, table in found.items():
    print(f"## {name}\n\n{table}\n")
  return 0
