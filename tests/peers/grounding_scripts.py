"""evaluate.py, adjust_ci.py and adjust_pda.py in float32 torch, reimplemented.

docs/protocol.md (Grounding, Gamma): full matrices, sorts, a loop over gammas.
Two things are not as published: float32 in place of float16, and stable sorts.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence

import torch

CUTOFFS = (1, 3, 5, 10, 20, 50)
GRIDS = {
  "movie_ci": [n / 100 for n in range(100)] + list(range(1, 100)),
  "game_ci": [n / 100 for n in range(1, 101)] + list(range(1, 100)),
  "movie_pda": list(range(100)),
}
_NOWHERE = 20_000  # The sentinel of data/game/evaluate.py.


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """Valid or test.

  Attributes:
    queries: [N, D] float32, embeddings of the predictions.
    accepted: by user, the item ids that count as the target.
    cf: [N, I] float32 scores.
  """

  queries: torch.Tensor
  accepted: list[list[int]]
  cf: torch.Tensor


def movie_titles(path: pathlib.Path) -> list[str]:
  """Returns the titles of movies.dat; an item's id is its line."""
  with open(path, encoding="ISO-8859-1") as file:
    return [line.split("::")[1].strip('"') for line in file]


def game_titles(path: pathlib.Path) -> list[str]:
  """Returns the titles of id2name.txt by id."""
  with open(path) as file:
    pairs = [line.rstrip("\n").rpartition("\t") for line in file]
  found = {int(key): title.strip('"\n').strip(" ") for title, _, key in pairs}
  return [found[key] for key in range(len(found))]


def accepted(
  titles: Sequence[str], targets: Sequence[str], kind: str
) -> list[list[int]]:
  """Returns the ids of each target title: movie the last one, game all."""
  ids: dict[str, list[int]] = {}
  for item, title in enumerate(titles):
    ids.setdefault(title, []).append(item)
  return [
    ids[target][-1:] if kind == "movie" else ids[target] for target in targets
  ]


def read_predictions(path: pathlib.Path) -> tuple[list[str], list[str]]:
  """Returns each row's first prediction and its target, unquoted."""
  rows = json.loads(path.read_text())
  texts = [row["predict"][0].strip('"') for row in rows]
  return texts, [row["output"].strip('"').strip(" ") for row in rows]


def ranks(scores: torch.Tensor, accepted: list[list[int]]) -> list[int]:
  """Returns each user's best rank among the ids that count."""
  order = scores.argsort(dim=-1, stable=True)
  place = order.argsort(dim=-1, stable=True)
  return [
    min((int(row[item]) for item in items), default=_NOWHERE)
    for row, items in zip(place, accepted, strict=True)
  ]


def plain_ranks(split: Split, items: torch.Tensor) -> list[int]:
  """Returns ranks by distance alone."""
  return ranks(torch.cdist(split.queries, items, p=2), split.accepted)


def ndcg(found: list[int], k: int) -> float:
  """Returns NDCG@k as the scripts sum it."""
  total = 0.0
  for rank in found:
    if rank < k:
      total += 1 / math.log(rank + 2)
  return total / len(found) / (1.0 / math.log(2))


def hit_rate(found: list[int], k: int) -> float:
  """Returns HR@k."""
  return sum(rank < k for rank in found) / len(found)


METRICS = {"ndcg": ndcg, "hr": hit_rate}
Table = dict[str, dict[str, float]]


def metrics(found: list[int]) -> Table:
  """Returns {"ndcg": {"1": ...}, "hr": {...}}."""
  return {
    name: {str(k): metric(found, k) for k in CUTOFFS}
    for name, metric in METRICS.items()
  }


def _min_max(values: torch.Tensor) -> torch.Tensor:
  low = values.min(dim=-1, keepdim=True).values
  high = values.max(dim=-1, keepdim=True).values
  return (values - low) / (high - low)


class Adjusted:
  """One split whose distances are shrunk by popularity or CF scores."""

  def __init__(
    self, split: Split, items: torch.Tensor, popularity: torch.Tensor | None
  ):
    """Takes popularity counts [I], or None for the split's CF scores."""
    self._distance = _min_max(torch.cdist(split.queries, items, p=2))
    if popularity is None:
      self._weight = _min_max(split.cf)
    else:
      self._weight = _min_max(popularity / popularity.sum())[None]
    self._accepted = split.accepted

  def ranks(self, gamma: float) -> list[int]:
    """Returns ranks at one gamma."""
    fused = (1 + self._weight) ** -gamma * self._distance
    return ranks(fused, self._accepted)


def adjust(
  valid: Split,
  test: Split,
  items: torch.Tensor,
  grid: Sequence[float],
  *,
  popularity: torch.Tensor | None = None,
  hr_by_ndcg: bool = False,
) -> tuple[Table, Table]:
  """Returns the gammas chosen on valid, and test's metrics at them.

  Args:
    valid: for choosing.
    test: for reporting.
    items: [I, D] title embeddings.
    grid: gammas in the order tried.
    popularity: [I] counts to inject; None injects CF scores.
    hr_by_ndcg: HR's gamma is the one with the best NDCG (adjust_pda.py).
  """
  tuned = Adjusted(valid, items, popularity)
  best = {name: dict.fromkeys(map(str, CUTOFFS), 0.0) for name in METRICS}
  gammas = {name: dict.fromkeys(map(str, CUTOFFS), -1.0) for name in METRICS}
  for gamma in grid:
    found = metrics(tuned.ranks(gamma))
    for name in METRICS:
      source = "ndcg" if hr_by_ndcg else name
      for k, value in found[source].items():
        if value > best[name][k]:
          best[name][k], gammas[name][k] = value, gamma
  reported = Adjusted(test, items, popularity)
  found = {
    gamma: metrics(reported.ranks(gamma))
    for gamma in {g for part in gammas.values() for g in part.values()}
  }
  tested = {
    name: {k: found[gamma][name][k] for k, gamma in part.items()}
    for name, part in gammas.items()
  }
  return gammas, tested
