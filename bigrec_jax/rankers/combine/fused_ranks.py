"""Places of targets where only a few items of a user have a fused score.

Candidates come first, by score; the others follow in the order of one part.
Equal scores are in the order of that part, and then of the catalogue, so that
a score that says nothing leaves the part as it is. A place is the number of
items before it, counted as `counting` counts.

Letters: N users, n of a block, S slots, I items.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from bigrec_jax.devices import blocks
from bigrec_jax.rankers.combine import candidates, features
from bigrec_jax.rankers.distance import distance

_USERS = 32  # Whose scores are read at a time,
_MOST_SCORES = 1 << 24  # and how many there may be.


class Judged(NamedTuple):
  """Where the targets of N users are.

  Attributes:
    own: [N, S] bool, the slots that hold the target's title.
    alone: by part [N], the target's place in the part's own order.
    rest: by part [N], its place where it is in no slot and the items behind
      the candidates are in the part's order.
  """

  own: np.ndarray
  alone: Mapping[str, np.ndarray]
  rest: Mapping[str, np.ndarray]


def judge(
  found: candidates.Candidates,
  users: candidates.Users,
  items: features.Items,
  vectors: np.ndarray,
  targets: np.ndarray,
  groups: np.ndarray,
  plain: np.ndarray,
) -> Judged:
  """Looks for the targets.

  Args:
    found: candidates of the users.
    users: N.
    items: of the catalogue.
    vectors: [I, D] float32, its embeddings.
    targets: [N] catalogue rows.
    groups: [I] int32, rows that count as one target.
    plain: [N] places by the distance to each user's first text.
  """
  titles = np.where(found.real, groups[np.maximum(found.items, 0)], -1)
  rows_of = [np.flatnonzero(groups == groups[target]) for target in targets]
  plain = np.asarray(plain, np.int64)
  before = [
    _nearer(found, n, users.queries[n, 0], rows, vectors)
    for n, rows in enumerate(rows_of)
  ]
  count = found.real.sum(axis=1)
  alone, rest = {features.TEXT: plain}, {features.TEXT: count + plain - before}
  for part, scores in _scores(users, items).items():
    both = [
      _before(*of_user)
      for of_user in zip(scores, rows_of, found.items, strict=True)
    ]
    alone[part], behind = np.array(both, np.int64).T
    rest[part] = count + behind
  return Judged(titles == groups[targets][:, None], alone, rest)


def order(
  scores: np.ndarray, costs: np.ndarray, items: np.ndarray
) -> np.ndarray:
  """Returns the slots [n, S] best first; empty ones last.

  Args:
    scores: [n, S] fused, the highest first.
    costs: [n, S] of the part that decides ties, the lowest first.
    items: [n, S], -1 = empty.
  """
  return np.lexsort((items, costs, -scores, items < 0), axis=1)


def ranks(
  scores: np.ndarray,
  costs: np.ndarray,
  items: np.ndarray,
  own: np.ndarray,
  rest: np.ndarray,
) -> np.ndarray:
  """Returns the places [N] int32 of the targets, 0 = first.

  Args:
    scores: [N, S] fused.
    costs: [N, S] of the part that decides ties and orders the others.
    items: [N, S].
    own: [N, S], of `Judged`.
    rest: [N], of `Judged`, by that part.
  """
  # The best own slot: by score, then by cost, then by row.
  best, keys = own, (-scores, costs, items)
  for key in keys:
    least = np.where(best, key, np.inf).min(axis=1, keepdims=True)
    best = best & (key == least)
  at = best.argmax(axis=1)[:, None]
  before, tied = np.zeros_like(own), items >= 0
  for key in keys:
    target = np.take_along_axis(key, at, axis=1)
    before |= tied & (key < target)
    tied = tied & (key == target)
  places = before.sum(axis=1)
  return np.where(own.any(axis=1), places, rest).astype(np.int32)


def _scores(
  users: candidates.Users, items: features.Items
) -> dict[str, Iterator[np.ndarray]]:
  """Returns each user's scores [I] in turn, by each part but the text."""

  def of_model(read: candidates.ReadScores) -> Iterator[np.ndarray]:
    whole = read(slice(0, 1)).shape[1]
    rows = max(1, min(_USERS, _MOST_SCORES // whole))
    for part in blocks.user_blocks(len(users), rows):
      yield from np.asarray(read(part))

  found = {name: of_model(read) for name, read in users.cf.items()}
  if (counts := items.popularity) is not None:
    found[features.POPULARITY] = itertools.repeat(
      np.asarray(counts), len(users)
    )
  return found


def _nearer(
  found: candidates.Candidates,
  user: int,
  query: np.ndarray,
  rows: np.ndarray,
  vectors: np.ndarray,
) -> int:
  """Counts a user's candidates that are nearer than the best of rows."""
  pairs = np.broadcast_to(query, (len(rows), len(query)))
  own = distance.exact(pairs, vectors[rows])
  best = own.argmin()  # Rows ascend: the first of equals.
  at = found.distances[user, :, 0]
  tied = (at == own[best]) & (found.items[user] < rows[best])
  return int((((at < own[best]) | tied) & found.real[user]).sum())


def _before(
  scores: np.ndarray, rows: np.ndarray, candidates_of: np.ndarray
) -> tuple[int, int]:
  """Counts what comes before the best of rows: all, and no candidates."""
  best = rows[scores[rows].argmax()]
  before = scores > scores[best]
  before[:best] |= scores[:best] == scores[best]
  of_candidates = before[candidates_of[candidates_of >= 0]]
  return int(before.sum()), int(before.sum() - of_candidates.sum())
