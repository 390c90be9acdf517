"""Rows of the tables: cells that differ by their seed alone."""

import collections
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.quality import cells, datasets
from bigrec_jax.results import chosen, clusters

LM = "smollm2"
TITLES = {
  "random": "random",
  "most_pop": "most popular",
  "item_knn": "ItemKNN",
  "bm25": "BM25 of history titles",
  "gru4rec": "GRU4Rec",
  "caser": "Caser",
  "sasrec": "SASRec (BCE)",
  "sasrec-softmax": "SASRec (full cross-entropy)",
  "dros": "DROS",
  LM: "SmolLM2",
  f"{LM}-minilm": "SmolLM2, grounded by MiniLM",
  f"{LM}-minilm-item_knn": "SmolLM2, grounded by MiniLM, ItemKNN fused too",
  f"{LM}-likelihood": "SmolLM2, candidates judged",
  f"{LM}-constrained": "SmolLM2, titles only",
}
_GAMMAS = {
  "": "",
  "bigrec": "published gammas",
  "two_gammas": "two gammas",
}


@dataclasses.dataclass(frozen=True, eq=False)
class System:
  """A row of the tables: cells that differ by their seed alone.

  Attributes:
    data: the data set.
    system: of the cells.
    rows: train rows; -1 = all.
    row: within the cells.
    cells: one a seed.
    users: whose the test rows are; None = each is another user's.
  """

  data: str
  system: str
  rows: int
  row: str
  cells: tuple[dict[str, Any], ...]
  users: clusters.Clusters | None = None

  @property
  def title(self) -> str:
    """What the row is called."""
    name = TITLES.get(self.system, self.system)
    if self.row in (self.system, "bigrec"):
      return name
    kind, _, gammas = self.row.removeprefix("bigrec+").partition(":")
    if not self.row.startswith("bigrec+"):
      return f"{name}: {self.row}"
    shown = f"{name} + {kind.replace('cf', 'CF').replace('+', ' + ')}"
    gammas = _GAMMAS.get(gammas, gammas)
    return f"{shown}, {gammas or 'one gamma'}"

  def metric(self, split: str, metric: str, k: int) -> float:
    """Returns the mean over seeds."""
    return float(
      np.mean(
        [c["measured"][self.row][split][metric][str(k)] for c in self.cells]
      )
    )

  @functools.cached_property
  def has_ranks(self) -> bool:
    """Whether the rank of every user is known."""
    return all("ranks" in c["measured"][self.row]["test"] for c in self.cells)

  @functools.cached_property
  def ranks(self) -> np.ndarray:
    """[S, N] ranks on test."""
    rows = [c["measured"][self.row]["test"]["ranks"] for c in self.cells]
    return np.stack([cells.unpack(text) for text in rows])


def _is_again(system: str, row: str) -> bool:
  """Returns whether a row is that of another cell: the same texts."""
  same = row.startswith("bigrec") or row == chosen.ALL_BEAMS
  return same and system in (f"{LM}-likelihood", f"{LM}-minilm-item_knn")


def listed(
  found: Sequence[dict[str, Any]],
  users: Mapping[str, clusters.Clusters | None] | None = None,
) -> list[System]:
  """Returns the rows of all tables, in the order of the tables.

  Args:
    found: the cells.
    users: whose the test rows of each data set are.
  """
  whose = users or {}
  groups = collections.defaultdict(list)
  for cell in found:
    for row in cell["measured"]:
      if _is_again(cell["system"], row):
        continue
      key = cell["data"], cell["system"], cell["rows"], row
      groups[key].append(cell)
  every = [
    System(*key, tuple(sorted(own, key=lambda c: c["seed"])), whose.get(key[0]))
    for key, own in groups.items()
  ]
  order, names = list(TITLES), list(datasets.DATA)

  def place(one: System) -> tuple:
    known = one.system in order
    rows = one.rows if one.rows >= 0 else float("inf")
    position = order.index(one.system) if known else len(order)
    is_lm = one.system.startswith(LM)
    few = (rows, position) if is_lm else (position, rows)
    return names.index(one.data), is_lm, *few, one.row

  return sorted(every, key=place)
