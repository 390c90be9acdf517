"""The parameters of BM25, chosen on valid, and BM25 of history titles.

The titles of a user's history, as one text, find items of similar titles:
what word overlap alone reaches, which a language model has to beat. Items of
the history stay candidates, as for every other ranker here.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.sharding import Mesh

from bigrec_jax.config import Bm25Config
from bigrec_jax.rankers import bm25, duplicates as duplicates_lib, engine
from bigrec_jax.rankers.combine import calibrate
from bigrec_jax.results import metrics
from bigrec_jax.workdir import parts

# Scores of valid that one setting may take: all of 5,000 users up to 50,000
# items, of which a dozen settings take seconds; of a million items 268 users.
_MOST_SCORES = 1 << 28


def users_to_choose_by(num_users: int, num_items: int) -> int:
  """Returns of how many users, the first of valid, settings are tried on."""
  return min(num_users, max(1, _MOST_SCORES // num_items))


@dataclasses.dataclass(frozen=True)
class Choice:
  """What valid likes best.

  Attributes:
    settings: k1 and b.
    tried: how many pairs there were.
    ndcg: of the pair on valid, at `calibrate.SINGLE_CUTOFF`.
  """

  settings: bm25.Settings
  tried: int
  ndcg: float

  def to_json(self) -> dict[str, Any]:
    """Returns what a result file says of it."""
    name = f"valid_ndcg@{calibrate.SINGLE_CUTOFF}"
    pair = dataclasses.asdict(self.settings)
    return {**pair, "tried": self.tried, name: self.ndcg}


def choose(
  terms: bm25.Terms,
  config: Bm25Config,
  ranks: Callable[[bm25.Index], np.ndarray],
  once: parts.Once = parts.at_once,
) -> tuple[Choice, bm25.Index]:
  """Returns the pair of parameters that ranks valid best, and its index.

  Args:
    terms: of the catalogue.
    config: the values to pair; of equally good pairs the first one is kept.
    ranks: an index to the ranks [N] of valid's targets.
    once: knows the ranks of settings that were tried before a kill.
  """
  pairs = [
    bm25.Settings(*pair) for pair in itertools.product(config.k1, config.b)
  ]
  best: tuple[Choice, bm25.Index | None] | None = None
  for settings in pairs:
    index: bm25.Index | None = None

    def rank(settings=settings) -> parts.Arrays:
      nonlocal index
      index = bm25.Index(terms, settings)
      return {"ranks": ranks(index)}

    found = once(f"choose {settings}", rank)["ranks"]
    ndcg = metrics.ndcg(found, calibrate.SINGLE_CUTOFF)
    if best is None or ndcg > best[0].ndcg:
      best = Choice(settings, len(pairs), ndcg), index
  assert best is not None, config  # The section has a pair at least.
  choice, index = best
  return choice, index or bm25.Index(terms, choice.settings)


def by_history(
  terms: bm25.Terms,
  groups: np.ndarray,
  history: np.ndarray,
  targets: np.ndarray,
  config: Bm25Config,
  mesh: Mesh,
  *,
  most_users: int,
  duplicates: str,
  once: parts.Once = parts.at_once,
) -> tuple[Choice, bm25.Index]:
  """Chooses the parameters by which titles of valid's histories rank best.

  Args:
    terms: of the catalogue.
    groups: [I] int32, `Catalogue.groups`.
    history: [N, H] catalogue rows of valid, padded with -1.
    targets: [N] catalogue rows.
    config: the values to choose from.
    mesh: all its devices share the items.
    most_users: of a block.
    duplicates: `ground.duplicates`.
    once: see `choose`.
  """
  few = users_to_choose_by(len(targets), len(groups))
  ranks_of = engine.Ranks(
    duplicates_lib.targets_by(duplicates, targets[:few], groups),
    len(groups),
    mesh,
    most_users=most_users,
    groups=duplicates_lib.groups_by(duplicates, groups),
  )
  counts = terms.history_counts(history[:few])
  return choose(
    terms, config, lambda index: ranks_of(index.ranker(counts)), once
  )
