"""The tables of docs/systems.md, from committed cells alone.

A table stands between `<!-- NAME -->` and `<!-- end NAME -->`, as in
docs/quality.md; a row is what cells say that differ by their seed alone.
"""

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.quality import cells, claims
from benchmarks.quality.page import (
  interval_text,
  markdown,
  number,
  signed,
)
from benchmarks.systems import recipes, shared
from bigrec_jax.results import comparisons

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "systems.md"
SEEDS = (0, 1, 2)
RANKERS = {
  "random": "random",
  "most_pop": "most popular",
  "item_knn": "ItemKNN",
  "bm25": "BM25 of history titles",
  shared.CF: "SASRec (full cross-entropy)",
}
SYSTEMS = (*RANKERS, *recipes.RECIPES)
_HEADLINE = 10
_NONE = "No cells yet."


def of(data: str) -> list[str]:
  """Returns the systems that can run on a data set, in an order that works."""
  return [
    system
    for system in SYSTEMS
    if system in RANKERS or data not in recipes.RECIPES[system].why_not
  ]


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
  """A row of a table: cells that differ by their seed alone.

  Attributes:
    base: of `shared.BASES`; "" where there is none in it.
    system: of the cells.
    row: within them.
    title: what it is called.
    protocol: what is ranked, of `recipes`.
    cells: one a seed.
    users: whose the test rows are; None = each is another user's.
  """

  base: str
  system: str
  row: str
  title: str
  protocol: str
  cells: tuple[dict[str, Any], ...]
  users: claims.Users = None

  @property
  def values(self) -> list[dict[str, Any]]:
    """What each seed measured on test."""
    return [cell["measured"][self.row]["test"] for cell in self.cells]

  @functools.cached_property
  def ranks(self) -> np.ndarray:
    """[S, N] ranks."""
    return np.stack([cells.unpack(own["ranks"]) for own in self.values])

  @functools.cached_property
  def hits(self) -> np.ndarray:
    """[S, N] what each user adds to HitRatio@1, of answers that are written."""
    rows = [cells.unpack(own["each"]["hit_ratio@1"]) for own in self.values]
    return np.stack(rows) / 1e6

  def mean(self, metric: str, k: int) -> str:
    """Returns a metric's mean over seeds, as text."""
    own = [values[metric][str(k)] for values in self.values]
    return number(float(np.mean(own)))


def lines(folder: pathlib.Path, data: str) -> list[Line]:
  """Returns the rows of a data set, in the order of `SYSTEMS`.

  Rankers without a language model are those of the first base that has them:
  they are the same whatever the base.
  """
  found: list[Line] = []
  users = cells.owners(cells.RESULTS, data, shared.USERS)
  for base in shared.BASES:
    groups = collections.defaultdict(list)
    for cell in cells.read_all(folder / base):
      if cell["data"] == data:
        groups[cell["system"]].append(cell)
    for system in SYSTEMS:
      own = tuple(sorted(groups[system], key=lambda cell: cell["seed"]))
      if own:
        found += _of_system(base, system, own, users)
  known: dict[tuple[str, str, str], Line] = {}
  for line in found:
    known.setdefault((line.base, line.system, line.row), line)
  return list(known.values())


def _of_system(
  base: str,
  system: str,
  own: tuple[dict[str, Any], ...],
  users: claims.Users,
) -> Iterator[Line]:
  if system in RANKERS:
    title = RANKERS[system]
    yield Line("", system, system, title, recipes.ALL, own, users)
    return
  for key, row in recipes.RECIPES[system].rows.items():
    if all(key in cell["measured"] for cell in own):
      yield Line(base, system, key, row.title, row.protocol, own, users)


def _compared(answer: claims.Answer | None) -> str:
  """Returns a difference with its p, * where it is beyond chance."""
  if answer is None:
    return ""
  star = "*" if answer.p_holm < claims.LEVEL else ""
  p = comparisons.in_words(answer.p_holm)
  return f"{signed(answer.difference)}{star} ({p})"


def _against(
  found: Sequence[Line], other: str, row: str
) -> dict[int, claims.Answer]:
  """Returns HR@10 of each row less that of one, by place, Holm over all."""
  first = next((x for x in found if (x.system, x.row) == (other, row)), None)
  if first is None:
    return {}
  places = [n for n, line in enumerate(found) if line is not first]
  theirs = claims.hits(first.ranks, _HEADLINE)
  answers = claims.corrected(
    [
      claims.answer(
        line.title,
        _HEADLINE,
        claims.hits(line.ranks, _HEADLINE),
        theirs,
        first.users,
      )
      for line in (found[n] for n in places)
    ]
  )
  return dict(zip(places, answers, strict=True))


def whole(every: Sequence[Line]) -> str:
  """Returns the table of rankings of all items."""
  found = [line for line in every if line.protocol == recipes.ALL]
  if not found:
    return _NONE
  headers = ["system", "base", "seeds"]
  headers += [f"HR@{k}" for k in shared.CUTOFFS]
  headers += [f"NDCG@{_HEADLINE}", f"HR@{_HEADLINE} 95 %"]
  headers += [
    f"HR@{_HEADLINE} less SASRec's (p)",
    f"HR@{_HEADLINE} less BIGRec's (p)",
  ]
  by_sasrec = _against(found, shared.CF, shared.CF)
  by_bigrec = _against(found, "bigrec", "bigrec")
  return markdown(
    headers,
    [
      [
        line.title,
        _base(line),
        str(len(line.cells)),
        *(line.mean("hr", k) for k in shared.CUTOFFS),
        line.mean("ndcg", _HEADLINE),
        interval_text(*claims.interval(line.ranks, _HEADLINE, line.users)),
        _compared(by_sasrec.get(place)),
        _compared(by_bigrec.get(place)),
      ]
      for place, line in enumerate(found)
    ],
  )


def _base(line: Line) -> str:
  return shared.BASES[line.base].title if line.base else ""


def few(every: Sequence[Line]) -> str:
  """Returns the table of systems that choose among 20 items.

  Each has its own draw of the others, so each is compared with SASRec, or
  popularity, on its very own candidates.
  """
  kinds = (recipes.OF_20, recipes.CHOSEN)
  found = [line for line in every if line.protocol in kinds]
  if not found:
    return _NONE
  headers = ["candidates of", "system", "protocol", "seeds", "HR@1", "HR@5"]
  headers += [f"NDCG@{_HEADLINE}", "HR@1 95 %", "HR@1 less the other's (p)"]
  headers += ["the other"]
  pairs = [(line, _other(found, line)) for line in found]
  answers = claims.corrected(
    [
      claims.answer(
        line.title, _HEADLINE, _first(line), _first(other), line.users
      )
      for line, other in pairs
      if other is not None
    ]
  )
  given = iter(answers)
  rows = []
  for line, other in pairs:
    hit = _first(line)
    ends = claims.interval_of(hit, line.users)
    is_ranking = line.protocol == recipes.OF_20
    rows.append(
      [
        line.system,
        line.title,
        line.protocol,
        str(len(line.cells)),
        number(float(hit.mean())),
        line.mean("hr", 5) if is_ranking else "",
        line.mean("ndcg", _HEADLINE) if is_ranking else "",
        interval_text(*ends),
        "" if other is None else _compared(next(given)),
        "" if other is None else other.title,
      ]
    )
  return markdown(headers, rows)


def _first(line: Line) -> np.ndarray:
  """Returns what each user adds to HR@1, [S, N]."""
  if line.protocol == recipes.CHOSEN:
    return line.hits
  return claims.hits(line.ranks, 1)


def _other(found: Sequence[Line], line: Line) -> Line | None:
  """Returns what a row is compared with: SASRec, or what is most popular."""
  own = [x for x in found if (x.base, x.system) == (line.base, line.system)]
  named = {x.row.rpartition(" ")[2]: x for x in own}
  best = named.get("sasrec") or named.get("most_pop")
  is_other = line.row.rpartition(" ")[2] in ("sasrec", "most_pop")
  return None if is_other else best


def measures(every: Sequence[Line]) -> str:
  """Returns what has no rank: AUC, errors of ratings, validity of answers."""
  rows = []
  for line in every:
    if line.protocol in (recipes.ALL, recipes.OF_20):
      continue
    for name in line.values[0]["metrics"]:
      if name == "hit_ratio@1":
        continue
      own = [values["metrics"][name] for values in line.values]
      spread = f" ± {number(float(np.std(own, ddof=1)))}" if own[1:] else ""
      shown = number(float(np.mean(own))) + spread
      n = f"{line.values[0]['n']:,}"
      rows.append([line.title, name, n, str(len(own)), shown])
  headers = ["system", "measure", "test rows", "seeds", "mean ± SD over seeds"]
  return markdown(headers, rows) if rows else _NONE


def fairness(folder: pathlib.Path, data: str) -> str:
  """Returns MGU of every ranker, and FaiRLLM's disparities."""
  rows = []
  for base, one in shared.BASES.items():
    for cell in cells.read_all(folder / base):
      if cell["data"] != data:
        continue
      for row in cell["settings"].get("item_fairness", ()):
        if row["grouping"] == "popularity":
          name = f"IFairLRS, MGU@{row['k']}: {row['ranker']}"
          ends = interval_text(*row["ci95"]["mgu"])
          rows.append(
            [name, one.title, str(cell["seed"]), number(row["mgu"]), ends]
          )
      if cell["system"] == "fairllm":
        rows += _disparities(cell, one.title)
  headers = ["measure", "base", "seed", "value", "95 %"]
  return markdown(headers, rows) if rows else _NONE


def _disparities(cell: Mapping[str, Any], base: str) -> Iterator[list[str]]:
  for system, by_split in cell["measured"].items():
    found = by_split["test"]["metrics"]
    for name in ("prag_normalised snsr", "prag_normalised snsv"):
      if name in found:
        ends = by_split["test"]["ci95"][name]
        shown = f"FaiRLLM, {name}: {system.partition(': ')[2]}"
        yield [
          shown,
          base,
          str(cell["seed"]),
          number(found[name]),
          interval_text(*ends),
        ]


def cost(every: Sequence[Line]) -> str:
  """Returns what each system took, mean over seeds."""
  rows, known = [], set()
  for line in every:
    if (line.base, line.system) in known:
      continue
    known.add((line.base, line.system))
    spent = [cell["settings"]["cost"] for cell in line.cells]
    steps: dict[str, list[float]] = {}
    for own in spent:
      for name, seconds in own["cpu_seconds"].items():
        steps.setdefault(name, []).append(seconds)
    tokens = [own.get("train_tokens", 0) for own in spent]
    learned = steps.pop("train", []) + steps.pop(line.system, [])
    judged = sum(float(np.mean(own)) for own in steps.values())
    rows.append(
      [
        line.system,
        _base(line),
        str(len(spent)),
        f"{np.mean(tokens):,.0f}" if any(tokens) else "",
        f"{np.mean(learned):,.0f}" if learned else "",
        f"{judged:,.0f}",
        ", ".join(f"{cell['hardware']['load']:g}" for cell in line.cells),
      ]
    )
  headers = ["system", "base", "seeds", "train tokens", "CPU s to train"]
  headers += ["CPU s to decode and judge", "load at the end, by seed"]
  return markdown(headers, rows) if rows else _NONE


def absent(data: str) -> str:
  """Returns why a system isn't in a table, or not ranked over all items."""
  rows = []
  for system, recipe in recipes.RECIPES.items():
    if data in recipe.why_not:
      rows.append([system, f"not here: {recipe.why_not[data]}"])
    elif recipe.note:
      rows.append([system, recipe.note])
  return markdown(["system", "why not all items"], rows)


def tables(folder: pathlib.Path) -> dict[str, str]:
  """Returns every table by its name."""
  found = {}
  for data in shared.DATA:
    every = lines(folder, data)
    found |= {
      f"{data}: all items": whole(every),
      f"{data}: 20 candidates": few(every),
      f"{data}: other measures": measures(every),
      f"{data}: fairness": fairness(folder, data),
      f"{data}: cost": cost(every),
      f"{data}: not ranked": absent(data),
    }
  return found


def todo(folder: pathlib.Path) -> Iterator[str]:
  """Yields the arguments of each command that has something to make."""
  for seed in SEEDS:
    for data in shared.DATA:
      for system in of(data):
        name = cells.Name(data, system, shared.TRAIN, seed)
        if not name.path(folder / "small").exists():
          yield f"--data={data} --seed={seed} --system={system}"
