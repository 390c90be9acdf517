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


def _lists(data: run_data.RunData) -> page.Html | None:
  """Returns the measures of recommendations.jsonl, beside the most popular."""
  if not data.recommended or not data.catalogue:
    return page.missing(
      "coverage, Gini, novelty and diversity",
      "--mode=recommend leaves the lists that they are of.",
    )
  titles = [row["title"] for row in data.catalogue]
  popularity = np.array([row.get("popularity", 0) for row in data.catalogue])
  row_of = {
    str(row.get("external_id", n)): n for n, row in enumerate(data.catalogue)
  }
  lists = list_quality.of_rows(data.recommended, row_of, _K)
  if not (lists >= 0).any():
    return page.missing(
      "lists of this catalogue", "Run --mode=recommend again."
    )
  first = np.argsort(-popularity, kind="stable")[:_K]
  popular = np.broadcast_to(first, (len(lists), len(first)))
  lines = [
    [name, *_cells(list_quality.measures(own, popularity, titles))]
    for name, own in (
      ("recommendations.jsonl", lists),
      ("most popular to everybody", popular),
    )
  ]
  return page.table(
    ["", "coverage", "Gini", "novelty, bits", "diversity"],
    lines,
    f"The first {_K} of {len(lists):,} lists. Coverage: share of the catalogue"
    " in any list. Gini: 0 where all items are listed alike. Novelty: mean"
    " -log2 of an item's share in train. Diversity: 1 - the mean share of words"
    " that two titles of a list have in common.",
  )


def _cells(found: dict[str, float]) -> list[object]:
  return [None if math.isnan(value) else value for value in found.values()]
