"""The section of the report on places beyond K and on lists as a whole."""

import math

import numpy as np

from bigrec_jax.results import (
  list_quality,
  main_rows,
  metrics,
  page,
  run_data,
)

_K = 10


def beyond_accuracy(data: run_data.RunData) -> page.Html:
  """Returns MRR of the main rows, and what recommended lists are like."""
  parts = [part for part in (_places(data), _lists(data)) if part]
  if not parts:
    return page.missing(
      "ranks and lists", "--mode=ground_eval makes the first, recommend others."
    )
  return page.join(parts)


def _places(data: run_data.RunData) -> page.Html | None:
  """Returns where targets are, over the whole catalogue."""
  rows = main_rows.closely(data)
  if not rows:
    return None
  lines = [
    [
      main_rows.label(name),
      metrics.mean_reciprocal_rank(ranks),
      f"{np.median(ranks) + 1:,.0f}",
    ]
    for name, ranks in rows.items()
  ]
  return page.table(
    ["", "MRR", "median place"],
    lines,
    "Mean reciprocal rank and median place of the targets on test, over the"
    " whole catalogue.",
  )


def _lists(data: run_data.RunData) -> page.Html:
  """Returns the measures of every system's lists, and of those recommended."""
  lines, k = _of_systems(data)
  lines += _recommended(data, k)
  if not lines:
    return page.missing(
      "coverage, Gini, novelty and diversity",
      "--config.ground.item_fairness=10 has --mode=ground_eval measure them for"
      " every system; --mode=recommend leaves lists, too.",
    )
  return page.table(
    ["", "coverage", "Gini", "novelty, bits", "diversity"],
    lines,
    f"The first {k} items of each list. Coverage: share of the catalogue"
    " in any list. Gini: 0 where all items are listed alike. Novelty: mean"
    " -log2 of an item's share in train. Diversity: 1 - the mean share of words"
    " that two titles of a list have in common. Lists of systems are of the"
    " test rows; a row with a gamma for each K has no list of its own.",
  )


def _of_systems(data: run_data.RunData) -> tuple[list[list[object]], int]:
  """Returns a line for each evaluated system, and how long their lists are."""
  file = data.item_fairness
  if file is None or not file.quality:
    return [], _K
  lengths = {row.k for row in file.quality}
  k = _K if _K in lengths else max(lengths)
  return [
    [main_rows.label(row.ranker), *map(row.values.get, list_quality.NAMES)]
    for row in file.quality
    if row.k == k
  ], k


def _recommended(data: run_data.RunData, k: int) -> list[list[object]]:
  """Returns lines of recommendations.jsonl, and of the most popular."""
  if not data.recommended or not data.catalogue:
    return []
  titles = [row["title"] for row in data.catalogue]
  popularity = np.array([row.get("popularity", 0) for row in data.catalogue])
  row_of = {
    str(row.get("external_id", n)): n for n, row in enumerate(data.catalogue)
  }
  lists = list_quality.of_rows(data.recommended, row_of, k)
  if not (lists >= 0).any():
    return []  # Of another catalogue.
  first = np.argsort(-popularity, kind="stable")[:k]
  popular = np.broadcast_to(first, (len(lists), len(first)))
  return [
    [name, *_cells(list_quality.measures(own, popularity, titles))]
    for name, own in (
      ("recommendations.jsonl", lists),
      ("most popular to everybody", popular),
    )
  ]


def _cells(found: dict[str, float]) -> list[object]:
  return [None if math.isnan(value) else value for value in found.values()]
