"""Exact ranks of one block of users under injection, at every gamma at once.

As in `resolution`: bounds count, doubts are decided in float64 by

  (1 + w_pop)^-f (1 + w_cf)^-g * (d - min d),

stable order by item; with one gamma for both parts it is the published
(1 + w)^-gamma * (d - min d) bit for bit.

Letters: n users of a block, M most rows that share a target's group, G gammas
or pairs of them.
"""

import abc

import jax
import numpy as np

from bigrec_jax.devices import blocks
from bigrec_jax.rankers.combine import injection
from bigrec_jax.rankers.distance import (
  critical,
  distance,
  pair_sweep,
  ranking,
  resolution,
  sweep,
)
from bigrec_jax.rankers.distance.user_block import UserBlock

# Most fused distances of group members that the host holds at a time.
_MEMBERS = 1 << 22


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
    signed = _OneGamma(block, weights, gammas[columns], sign, shape, limit)
    part = signed.ranks(live)
    ranks[np.ix_(live, columns)] = part[live]
  return ranks


def pair_ranks(
  block: UserBlock,
  weights: injection.Injection,
  firsts: np.ndarray,
  seconds: np.ndarray,
  shape: critical.Shape,
  plain: np.ndarray,
  limit: int | None,
) -> np.ndarray:
  """Returns each user's rank at every pair of gammas.

  Args:
    block: its users; each sees at least two different distances.
    weights: of the items, for these users: popularity and CF.
    firsts: [F] positive gammas of popularity.
    seconds: [G] positive, ascending gammas of CF, at most `shape.gammas`.
    shape: of grids that hold all of `seconds`.
    plain: [n] from `plain_ranks`.
    limit: as in `injected_ranks`.

  Returns:
    [n, F, G] int64.
  """
  live = block.distances.min(axis=1) > block.least
  pairs = _TwoGammas(block, weights, firsts, seconds, shape, limit)
  ranks = np.repeat(plain[:, None], len(firsts) * len(seconds), axis=1)
  ranks[live] = pairs.ranks(live)[live]
  return ranks.reshape(len(block), len(firsts), len(seconds))


class _Sweep(abc.ABC):
  """Ranks at a row of gammas, or of pairs of gammas."""

  def __init__(
    self,
    block: UserBlock,
    weights: injection.Injection,
    gammas: injection.Gammas,
    limit: int | None,
    skips: bool,
  ):
    """Finds each user's target at each of `gammas`.

    Args:
      block: its users.
      weights: of the items, for these users.
      gammas: [G] each.
      limit: as in `injected_ranks`.
      skips: no gamma is negative, so that users whose target `limit` items
        surely precede at all of them need no sweep.
    """
    self._block = block
    self._weights = weights
    self._gammas = gammas
    self._count = np.size(gammas.cf)
    self._limit = limit
    self._skips = skips and limit is not None
    self._own, self._distance = self._best_members()  # [n, G]

  @abc.abstractmethod
  def _counts(
    self,
    users: np.ndarray,
    target: ranking.Target,
    reference: injection.Reference,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns ([R, G] certainly before, [R, G] possibly before)."""

  @abc.abstractmethod
  def _doubts(
    self,
    users: np.ndarray,
    places: np.ndarray,
    target: ranking.Target,
    reference: injection.Reference,
  ) -> ranking.Doubts:
    """Returns the doubts about users at the gammas of these numbers."""

  def _best_members(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns (row, distance) of the group's first row at each gamma."""
    block = self._block
    several = np.flatnonzero(np.isfinite(block.distances).sum(axis=1) > 1)
    places = np.zeros((len(block), self._count), np.int64)
    rows, exact = block.members[several], block.distances[several]
    step = max(1, _MEMBERS // max(1, rows.size))
    for start in range(0, self._count if several.size else 0, step):
      part = np.arange(start, min(start + step, self._count))
      shrinkage = self._weights.shrinkage(
        several[:, None, None],
        np.maximum(rows, 0)[:, None],
        self._gammas.at(part[:, None]),
      )
      least = block.least[several, None, None]
      values = shrinkage * (exact[:, None] - least)  # [several, g, M]
      # First of equals: lowest row.
      places[np.ix_(several, part)] = values.argmin(axis=2)
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
      target = resolution.target_of(block, users, exact[users])
      return target, weights.reference(users, own[users])

    wanted = np.flatnonzero(columns.any(axis=1))
    if self._skips:
      ahead = self._outranked(*arguments(np.arange(len(block))))
      wanted = wanted[ahead[wanted] < self._limit]
    # Who isn't swept is outranked by `limit` items or more at every gamma.
    certain = np.full(self._own.shape, self._limit or 0, np.int64)
    possible = certain.copy()
    size = resolution.call_size(block, resolution.USERS)
    for part in blocks.user_blocks(len(wanted), size):
      users = wanted[part]
      asked = blocks.pad_rows(users, size)
      counts = self._counts(asked, *arguments(asked))
      for found, count in zip((certain, possible), counts, strict=True):
        found[users] = count[: len(users)]
    ranks, open_ = certain, possible != certain
    if self._limit is not None:
      open_ &= ranks < self._limit
    users, places = np.nonzero(open_ & columns)

    def ask(questions: np.ndarray) -> ranking.Doubts:
      asked = users[questions]
      return self._doubts(asked, places[questions], *arguments(asked))

    def compare(asked, items, questions):
      place = places[questions]
      values = self._fused(
        asked,
        items,
        distance.exact_pairs(block.queries, block.table, asked, items),
        place,
      )
      bar = self._fused(asked, own[asked], exact[asked], place)
      tied = (values == bar) & (items < own[asked])
      return (values < bar) | tied

    ranks[users, places] = resolution.settle(block, users, ask, compare)
    return ranks

  def _fused(
    self,
    users: np.ndarray,
    items: np.ndarray,
    distances: np.ndarray,
    places: np.ndarray,
  ) -> np.ndarray:
    """Returns [q] float64 fused distances at the gammas of these numbers."""
    shrinkage = self._weights.shrinkage(users, items, self._gammas.at(places))
    return shrinkage * (distances - self._block.least[users])

  def _outranked(
    self, target: ranking.Target, reference: injection.Reference
  ) -> np.ndarray:
    """Returns [n] how many items precede at every gamma of at least 0."""
    block = self._block
    ahead = sweep.outranked(
      block.device,
      resolution.padded(target, block.rows),
      self._weights.gain,
      resolution.padded(reference, block.rows),
      block.table.items,
      **resolution.options(block.table),
    )
    return np.asarray(ahead)[: len(block)]


class _OneGamma(_Sweep):
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
    super().__init__(
      block, weights, injection.Gammas.of(gammas), limit, sign > 0
    )
    self._grid = jax.device_put(critical.grid(np.abs(gammas), shape))
    self._sign = np.float32(sign)
    self._options = {**resolution.options(block.table), "shape": shape}

  def _counts(self, users, target, reference):
    counts = sweep.injected_counts(
      self._block.device,
      users,
      target,
      self._weights.gain,
      reference,
      self._sign,
      self._grid,
      self._block.table.items,
      **self._options,
    )
    return tuple(np.asarray(count)[:, : self._count] for count in counts)

  def _doubts(self, users, places, target, reference):
    return sweep.injected_doubts(
      self._block.device,
      users,
      places.astype(np.int32),
      target,
      self._weights.gain,
      reference,
      self._sign,
      self._grid,
      self._block.table.items,
      **self._options,
    )


class _TwoGammas(_Sweep):
  """Every pair of a positive gamma of popularity and one of CF."""

  def __init__(
    self,
    block: UserBlock,
    weights: injection.Injection,
    firsts: np.ndarray,
    seconds: np.ndarray,
    shape: critical.Shape,
    limit: int | None,
  ):
    gammas = injection.Gammas(
      np.repeat(firsts, len(seconds)), np.tile(seconds, len(firsts))
    )
    super().__init__(block, weights, gammas, limit, True)
    self._seconds = len(seconds)
    self._firsts = firsts.astype(np.float32)
    self._grid = jax.device_put(critical.grid(seconds, shape))
    self._options = {**resolution.options(block.table), "shape": shape}

  def _counts(self, users, target, reference):
    counts = pair_sweep.pair_counts(
      self._block.device,
      users,
      target,
      self._weights.gain,
      reference,
      self._firsts,
      self._grid,
      self._block.table.items,
      **self._options,
    )
    return tuple(
      np.asarray(count)[:, :, : self._seconds].reshape(len(users), -1)
      for count in counts
    )

  def _doubts(self, users, places, target, reference):
    first, column = np.divmod(places, self._seconds)
    return pair_sweep.pair_doubts(
      self._block.device,
      users,
      self._firsts[first],
      column.astype(np.int32),
      target,
      self._weights.gain,
      reference,
      self._grid,
      self._block.table.items,
      **self._options,
    )
