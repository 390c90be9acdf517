"""Exact ranks of one block of users: counts by bounds, doubts in float64.

The rank returned for a question (a user and a gamma) is that of the float64
procedure on the float32 embeddings and scores as given: exact distances,
(1 + w)^-gamma * (d - min d), stable order by item. Only the items that float32
bounds left in doubt are ever computed that way.

Letters: n users of a block, M most rows that share a target's group, G gammas,
Q questions of one device call.
"""

from collections.abc import Callable

import jax
import numpy as np

from bigrec_jax.devices import blocks
from bigrec_jax.rankers.combine import injection
from bigrec_jax.rankers.distance import critical, distance, ranking, sweep
from bigrec_jax.rankers.distance.user_block import UserBlock

# Users of one sweep, questions of one call about doubts, and most scores that
# either may hold on a device.
_USERS = 64
_QUESTIONS = 32
_SCORES = 1 << 24

# (users, items, question of each) -> which items come before its target.
Compare = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def plain_ranks(block: UserBlock) -> np.ndarray:
  """Returns [n] int64 exact ranks by distance, ties by lowest item."""
  place = block.distances.argmin(axis=1)  # First of equals: lowest row.
  own, own_distance = block.pick(place[:, None])
  own, own_distance = own[:, 0], own_distance[:, 0]
  everyone = np.arange(len(block))
  target = _target(block, everyone, own_distance)
  options = _options(block.table)
  certain, possible = ranking.plain_counts(
    block.device, _padded(target, block.rows), block.table.items, **options
  )
  ranks = np.asarray(certain)[: len(block)].astype(np.int64)
  asked = np.flatnonzero(np.asarray(possible)[: len(block)] != ranks)

  def ask(questions: np.ndarray) -> ranking.Doubts:
    users = asked[questions]
    return ranking.plain_doubts(
      block.device,
      users,
      _target(block, users, own_distance[users]),
      block.table.items,
      **options,
    )

  def compare(users, items, questions):
    del questions
    found = distance.exact_pairs(block.queries, block.table, users, items)
    tied = (found == own_distance[users]) & (items < own[users])
    return (found < own_distance[users]) | tied

  ranks[asked] = _settle(block, asked, ask, compare)
  return ranks


def injected_ranks(
  block: UserBlock,
  weights: injection.Injection,
  gammas: np.ndarray,
  shape: critical.Shape,
  plain: np.ndarray,
  limit: int | None,
) -> np.ndarray:
  """Returns each user's rank at every gamma.

  Args:
    block: its users; each sees at least two different distances.
    weights: of the items, for these users.
    gammas: [G] reals in any order, at most `shape.gammas` of one sign.
    shape: of grids that hold all the magnitudes.
    plain: [n] from `plain_ranks`.
    limit: None = all exact; else a rank of `limit` or more may be returned as
      any smaller one of `limit` or more, which saves work.

  Returns:
    [n, G] int64.
  """
  ranks = np.repeat(plain[:, None], len(gammas), axis=1)
  # With a target at the least distance nothing ever moves: those at 0 stay.
  live = block.distances.min(axis=1) > block.least
  for sign in (1, -1):
    columns = np.flatnonzero(sign * gammas > 0)
    columns = columns[np.argsort(np.abs(gammas[columns]), kind="stable")]
    if not columns.size:
      continue
    signed = _Sweep(block, weights, gammas[columns], sign, shape, limit)
    part = signed.ranks(live)
    ranks[np.ix_(live, columns)] = part[live]
  return ranks


class _Sweep:
  """The gammas of one sign, ascending in magnitude."""

  def __init__(
    self,
    block: UserBlock,
    weights: injection.Injection,
    gammas: np.ndarray,
    sign: int,
    shape: critical.Shape,
    limit: int | None,
  ):
    self._block = block
    self._weights = weights
    self._gammas = gammas
    self._limit = limit
    grid = critical.grid(np.abs(gammas), shape)
    self._grid = jax.device_put(grid)
    self._sign = np.float32(sign)
    self._options = {**_options(block.table), "shape": shape}
    self._own, self._distance = self._best_members()  # [n, G]
    own_factor = weights.factor(np.arange(len(block))[:, None], self._own)
    self._value = injection.fused(
      own_factor, self._distance, block.least[:, None], gammas[None]
    )

  def _best_members(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns (row, distance) of the group's first row at each gamma."""
    block = self._block
    several = np.flatnonzero(np.isfinite(block.distances).sum(axis=1) > 1)
    places = np.zeros((len(block), len(self._gammas)), np.int64)
    if several.size:
      rows, exact = block.members[several], block.distances[several]
      factor = self._weights.factor(several[:, None], np.maximum(rows, 0))
      values = injection.fused(
        factor[:, None],
        exact[:, None],
        block.least[several, None, None],
        self._gammas[None, :, None],
      )  # [several, G, M]
      places[several] = values.argmin(axis=2)  # First of equals: lowest row.
    return block.pick(places)

  def ranks(self, live: np.ndarray) -> np.ndarray:
    """Returns [n, G]; rows of users that aren't `live` [n] mean nothing."""
    ranks = np.zeros(self._own.shape, np.int64)
    done = np.zeros(self._own.shape, bool)
    done[~live] = True
    everyone = np.arange(len(self._block))
    while not done.all():
      # One target per user and pass; nearly always one pass does, as one of
      # a group's rows has the largest weight at every gamma.
      place = np.argmin(done, axis=1)
      own, exact = self._own[everyone, place], self._distance[everyone, place]
      columns = (self._own == own[:, None]) & ~done
      ranks[columns] = self._pass(own, exact, columns)[columns]
      done |= columns
    return ranks

  def _pass(
    self, own: np.ndarray, exact: np.ndarray, columns: np.ndarray
  ) -> np.ndarray:
    """Returns [n, G] ranks of one target per user, where `columns`."""
    block, weights = self._block, self._weights

    def arguments(users: np.ndarray) -> tuple:
      target = _target(block, users, exact[users])
      return target, weights.reference(users, own[users])

    wanted = np.flatnonzero(columns.any(axis=1))
    if self._limit is not None and self._sign > 0:
      target, reference = arguments(np.arange(len(block)))
      ahead = sweep.outranked(
        block.device,
        _padded(target, block.rows),
        weights.gain,
        _padded(reference, block.rows),
        block.table.items,
        **_options(block.table),
      )
      wanted = wanted[np.asarray(ahead)[wanted] < self._limit]
    # Who isn't swept is outranked by `limit` items or more at every gamma.
    certain = np.full(self._own.shape, self._limit or 0, np.int64)
    possible = certain.copy()
    size = _call_size(block, _USERS)
    for part in blocks.user_blocks(len(wanted), size):
      users = wanted[part]
      asked = blocks.pad_rows(users, size)
      target, reference = arguments(asked)
      counts = sweep.injected_counts(
        block.device,
        asked,
        target,
        weights.gain,
        reference,
        self._sign,
        self._grid,
        block.table.items,
        **self._options,
      )
      for found, count in zip((certain, possible), counts, strict=True):
        found[users] = np.asarray(count)[: len(users), : len(self._gammas)]
    ranks, open_ = certain, possible != certain
    if self._limit is not None:
      open_ &= ranks < self._limit
    users, places = np.nonzero(open_ & columns)

    def ask(questions: np.ndarray) -> ranking.Doubts:
      target, reference = arguments(users[questions])
      return sweep.injected_doubts(
        block.device,
        users[questions],
        places[questions].astype(np.int32),
        target,
        weights.gain,
        reference,
        self._sign,
        self._grid,
        block.table.items,
        **self._options,
      )

    def compare(asked, items, questions):
      exact_ones = distance.exact_pairs(
        block.queries, block.table, asked, items
      )
      place = places[questions]
      values = injection.fused(
        weights.factor(asked, items),
        exact_ones,
        block.least[asked],
        self._gammas[place],
      )
      bar = self._value[asked, place]
      tied = (values == bar) & (items < self._own[asked, place])
      return (values < bar) | tied

    ranks[users, places] = _settle(block, users, ask, compare)
    return ranks


def _settle(
  block: UserBlock,
  users: np.ndarray,
  ask: Callable[[np.ndarray], ranking.Doubts],
  compare: Compare,
) -> np.ndarray:
  """Returns the exact rank of every question.

  Args:
    block: of the users.
    users: [Q] the user of each question.
    ask: returns the doubts about some questions, given their numbers.
    compare: decides doubtful items in float64.

  Returns:
    [Q] int64.
  """
  layout = block.table.layout
  size = _call_size(block, _QUESTIONS)
  ranks = np.zeros(len(users), np.int64)
  for part in blocks.user_blocks(len(users), size):
    questions = np.arange(part.start, part.stop)
    doubts = ask(blocks.pad_rows(questions, size))
    listed = np.asarray(doubts.listed)[: len(questions)]
    places, columns = np.nonzero(listed < layout.num_items)
    items = listed[places, columns]
    unlisted = np.flatnonzero(np.asarray(doubts.unlisted)[: len(questions)])
    if unlisted.size:
      states = distance.whole(doubts.states, block.table.mesh)
      rest, others = np.nonzero(states[unlisted, : layout.num_items] == 1)
      kept = ~np.isin(places, unlisted)
      places = np.concatenate([places[kept], unlisted[rest]])
      items = np.concatenate([items[kept], others])
    before = compare(users[questions[places]], items, questions[places])
    ranks[part] = np.asarray(doubts.certain)[: len(questions)]
    ranks[part] += np.bincount(places[before], minlength=len(questions))
  return ranks


def _call_size(block: UserBlock, most: int) -> int:
  """Returns how many users or questions one call takes."""
  return min(block.rows, most, max(1, _SCORES // block.table.layout.rows))


def _options(table: distance.ItemTable) -> dict:
  return {
    "width": table.host.shape[1],
    "layout": table.layout,
    "mesh": table.mesh,
  }


def _target(
  block: UserBlock, users: np.ndarray, exact: np.ndarray
) -> ranking.Target:
  """Returns the device's view of targets at `exact` [n] distances."""
  gap = exact - block.least[users]
  return ranking.Target(
    exact.astype(np.float32),
    np.where(gap > 0, gap, 1.0).astype(np.float32),
    block.twin[users],
    block.groups[users],
  )


def _padded(tree, rows: int):
  return jax.tree.map(lambda a: blocks.pad_rows(a, rows), tree)
