"""Lists of items of every user of a split, and the rows that measure them.

For tasks whose answers are items: beams as they are, and what others would
list. Lists are [N, K] catalogue rows, best first, each title once, -1 = none.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrec_jax.cf import scores as cf_scores
from bigrec_jax.results import clusters, list_metrics, metrics, rows
from bigrec_jax.tasks import cf_files, protocol

if TYPE_CHECKING:
  from bigrec_jax.rankers.protocol import Ranker


def of_beams(
  predictions: Sequence[Mapping[str, Any]],
  item_of: Callable[[str], int | None],
  width: int,
) -> np.ndarray:
  """Returns the items that beams name, [N, width].

  Args:
    predictions: rows of a predictions file.
    item_of: the item that a text names, None where it names none.
    width: K, at least the number of beams.
  """
  found = np.full((len(predictions), width), -1, np.int64)
  for line, row in zip(found, predictions, strict=True):
    for place, text in enumerate(row["predict"]):
      item = item_of(text)
      line[place] = -1 if item is None else item
  return found


def of_others(
  store: protocol.Store, split: str
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields (system, lists) of most_pop and, where it has scores, a CF model."""
  # Not at the top: a task is found before anything heavy is needed.
  from bigrec_jax.rankers import baselines, cf as cf_rankers

  popular = baselines.MostPopular(store.catalogue.popularity)
  yield "most_pop", _listed(store, split, popular)
  files = cf_files.find(store)
  if split in files:
    scores = cf_scores.load_scores(
      files[split], store.examples(split), store.catalogue
    )
    name = store.config.ground.injected_cf or "cf"
    yield name, _listed(store, split, cf_rankers.of_scores(scores))


def _listed(store: protocol.Store, split: str, ranker: "Ranker") -> np.ndarray:
  """Returns a ranker's lists [N, K], each title once."""
  from bigrec_jax.rankers import title_lists

  ground = store.config.ground
  return title_lists.title_lists(
    ranker,
    len(store.examples(split)),
    store.catalogue.groups,
    store.mesh,
    k=max(ground.cutoffs),
    most_users=ground.batch_size,
  )


def row(
  store: protocol.Store,
  split: str,
  system: str,
  lists: np.ndarray,
  settings: Mapping[str, float] | None = None,
) -> rows.TaskRow:
  """Measures lists [N, K]; what else is known of them stands behind."""
  catalogue = store.catalogue
  targets = store.examples(split).target
  ranks = list_metrics.target_ranks(lists, targets, catalogue.groups)
  missed = ranks == lists.shape[1]
  # A list that is shorter than a cutoff doesn't have the target behind it.
  ranks = np.where(missed, len(catalogue.titles) + 1, ranks)
  return of_ranks(store, split, system, ranks, settings)


def of_ranks(
  store: protocol.Store,
  split: str,
  system: str,
  ranks: np.ndarray,
  settings: Mapping[str, float] | None = None,
) -> rows.TaskRow:
  """Returns HR and NDCG of ranks [N] at `ground.cutoffs`, with intervals."""
  config = store.config
  users = clusters.of_owners(store.examples(split).owners)
  values, intervals = {}, {}
  for name in ("hr", "ndcg"):
    for k in config.ground.cutoffs:
      values[f"{name}@{k}"] = metrics.METRICS[name](ranks, k)
      intervals[f"{name}@{k}"] = metrics.ci95(
        ranks, name, k, config.ground.bootstrap_samples, config.seed, users
      )
  return rows.TaskRow(
    split,
    system,
    values | dict(settings or {}),
    intervals,
    len(ranks),
    [config.seed],
    clusters.count(users),
    {"rank": ranks},
  )
