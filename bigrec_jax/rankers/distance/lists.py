"""The items that a prediction is grounded to: each user's nearest few.

A pass over blocks of items (`lowest`) finds the candidates, those of the lowest
float32 bounds: of squared distances, or with something injected of logarithms
of fused distances, since a gamma of 100 takes these below what float32 can
hold. The latter needs the exact least distance first, which is a pass of its
own. The candidates' order is then decided exactly, like a rank, and a list is
taken only as far as no other item can come before its end.

Letters: n users of a block, padded to B on the device, m some of them, c
candidates, H hidden.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bigrec_jax import errors
from bigrec_jax.devices import blocks
from bigrec_jax.rankers import shown
from bigrec_jax.rankers.combine import injection
from bigrec_jax.rankers.distance import distance, lowest, streamed

# Candidates beyond k: bounds may misplace near-equal items at the border.
_SLACK = 32
# More candidates than this for a whole block would be slower than to go over
# the catalogue for the users in doubt.
_MOST_CANDIDATES = 1024
# A few histories of thousands of items are no reason for all users to have as
# many candidates; whose are too few is told then.
_MOST_SPARE = 512
_NEAR = 32  # Nearest items among which the least distance is looked for.

# (rows of the block [m], items [m, c]) to which may be listed [m, c].
_Keep = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Listed(NamedTuple):
  """Items of n users, best first.

  Attributes:
    items: [n, k] int32 catalogue rows; -1 = there are no more.
    fused: [n, k] float64, shrinkage * (d - min d).
    distances: [n, k] float64, d.
    spread: [n] float64, max d - min d, but for a rounding of float32.
  """

  items: np.ndarray
  fused: np.ndarray
  distances: np.ndarray
  spread: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Users:
  """A block of users and what is injected for them.

  Attributes:
    queries: [n, D] float32.
    rows: B >= n, what shapes are padded to.
    weights: what to inject; neither part = plain distance.
    gammas: how strongly, at least 0.
    first_row: of the block within all users, for messages.
    name: of what the queries are, for messages.
  """

  queries: np.ndarray
  rows: int
  weights: injection.Injection
  gammas: injection.Gammas
  first_row: int
  name: str


def top_items(
  table: streamed.Streamed, users: Users, k: int, most_items: int
) -> Listed:
  """Returns each user's k first items by fused distance.

  Equal fused distances are in catalogue order, as in a stable ascending sort.

  Args:
    table: the catalogue.
    users: a block of them.
    k: list length, at most the number of items.
    most_items: that a device scores at a time.

  Raises:
    UserError: a query isn't finite.
  """
  real = table.real

  def keep(rows: np.ndarray, items: np.ndarray) -> np.ndarray:
    del rows
    return np.ones(items.shape, bool) if real is None else real[items]

  only = None if real is None else np.flatnonzero(real)
  return _Search(table, users, most_items).first(k, 0, keep, only)


def new_titles(
  table: streamed.Streamed,
  users: Users,
  k: int,
  hidden: np.ndarray,
  most_items: int,
  allowed: np.ndarray | None = None,
) -> Listed:
  """Returns each user's k first items of different titles, none of them hidden.

  Args:
    table: the catalogue.
    users: a block of them.
    k: list length, at most the number of items.
    hidden: [n, H] catalogue rows, padded with -1; rows of the same title are
      hidden with them.
    most_items: that a device scores at a time.
    allowed: [I] bool, which rows may be listed, at least one; None = all.

  Raises:
    UserError: a query isn't finite.
  """
  groups = table.groups
  spare = spare_of(hidden.shape[1])

  def keep(rows: np.ndarray, items: np.ndarray) -> np.ndarray:
    kept = np.zeros(items.shape, bool)
    for row, own, without in zip(kept, items, hidden[rows], strict=True):
      row[:] = shown.of_candidates(own, groups, without, allowed)
    return kept

  only = None if allowed is None else np.flatnonzero(allowed)
  return _Search(table, users, most_items).first(k, spare, keep, only)


def warm_up(
  table: streamed.Streamed, users: Users, k: int, spare: int, most_items: int
) -> None:
  """Compiles every pass that lists of this size may take.

  Args:
    table: the catalogue.
    users: a block of as many as will be asked for.
    k: list length.
    spare: of `new_titles` `spare_of` its hidden rows, of `top_items` 0.
    most_items: that a device scores at a time.
  """
  _Search(table, users, most_items).warm_up(k, spare)


def spare_of(hidden: int) -> int:
  """Returns how many candidates more H hidden rows ask for.

  A power of two, so that few lengths of histories mean few programs.
  """
  return 1 << max(0, min(hidden, _MOST_SPARE) - 1).bit_length()


def _counts(k: int, spare: int, total: int) -> list[int]:
  """Returns how many candidates are asked for in turn; each is a program."""
  count = k + spare + _SLACK
  most = max(_MOST_CANDIDATES, 4 * count)
  found = [min(count, total)]
  while found[-1] < total and 4 * count <= most:
    count *= 4
    found.append(min(count, total))
  return found


class _Search:
  """The lists of one block of users."""

  def __init__(self, table: streamed.Streamed, users: Users, most_items: int):
    self._table, self._users = table, users
    self._total = len(table.host)
    self._everyone = np.arange(len(users.queries))
    self._blocks = lowest.Blocks.of(
      table.layout.rows, users.rows, most_items, table.mesh
    )
    weights = users.weights
    self._plain = weights.popularity is None and weights.cf is None
    self._least = np.zeros(len(users.queries))
    self._spread = self._least

  def first(
    self, k: int, spare: int, keep: _Keep, only: np.ndarray | None = None
  ) -> Listed:
    """Returns the k first items that `keep` leaves; asks until it is sure.

    Args:
      k: list length.
      spare: items that `keep` may leave out, about.
      keep: what may be listed.
      only: [A] ascending rows, beside which `keep` leaves nothing; None = it
        may leave any.
    """
    counts = _counts(k, spare, self._total)
    everything: np.ndarray = np.arange(self._total, dtype=np.int32)
    if only is not None:
      # As many as have that many allowed ones among them, on average.
      likely = counts[0] * self._total / len(only)
      while len(counts) > 1 and 2 * counts[0] < likely:
        del counts[0]
      everything = only.astype(np.int32)
    few = len(everything) <= counts[0] < self._total
    if few or not self._plain:
      self._nearest(self._pass(min(_NEAR, self._total), None))
    if few:
      own = np.broadcast_to(everything, (len(self._least), len(everything)))
      whole, _ = self._in_order(self._everyone, own)
      return self._cut(whole, keep(self._everyone, whole.items), k)
    for count in counts:  # Many rows share titles, or are nearly equal.
      found, sure = self._candidates(count)
      kept = keep(self._everyone, found.items) & sure
      enough = kept.sum(axis=1) >= k
      if enough.all():
        break
    result = self._cut(found, kept, k)
    if count < self._total:
      for user in np.flatnonzero(~enough):
        own = self._everyone[user : user + 1]
        whole, _ = self._in_order(own, everything[None])
        only_one = self._cut(whole, keep(own, whole.items), k)
        for column, part in zip(result[:3], only_one[:3], strict=True):
          column[user] = part[0]
    return result

  def warm_up(self, k: int, spare: int) -> None:
    """Does every pass once."""
    self._nearest(self._pass(min(_NEAR, self._total), None))
    for count in _counts(k, spare, self._total):
      self._candidates(count)

  def _pass(
    self, count: int, weighting: lowest.Weighting | None
  ) -> lowest.Lowest:
    """Returns a pass over the catalogue, on the host and of the n users."""
    table, users = self._table, self._users
    found = lowest.lowest(
      blocks.pad_rows(users.queries, users.rows),
      table.vectors,
      weighting,
      count=count,
      blocks=self._blocks,
      layout=table.layout,
      mesh=table.mesh,
    )
    found = lowest.Lowest(*(np.asarray(x)[: len(self._least)] for x in found))
    bad = np.flatnonzero(~np.isfinite(found.norms))
    if bad.size:
      raise errors.UserError(
        f"{users.name} queries: row {users.first_row + bad[0]} is NaN, infinite"
        " or too long for float32, finite embeddings expected"
      )
    return found

  def _nearest(self, near: lowest.Lowest) -> np.ndarray:
    """Finds each user's exact least distance; returns those of `near`."""
    exact = self._exact(self._everyone, near.items)
    self._least = exact.min(axis=1)
    # Others may be nearer only where too many are equally near, or nearly.
    with np.errstate(invalid="ignore"):
      surely = self._least <= np.sqrt(np.maximum(near.rest, 0.0))
    if near.items.shape[1] < self._total:
      for user in np.flatnonzero(~surely):
        everything = np.arange(self._total)[None]
        whole = self._exact(self._everyone[user : user + 1], everything)
        self._least[user] = whole.min()
    farthest = np.sqrt(np.maximum(near.farthest, 0.0).astype(np.float64))
    # Zero only where all items are equally near.
    spread = np.maximum(farthest, exact.max(axis=1)) - self._least
    self._spread = np.where(spread > 0, spread, 1.0)
    return exact

  def _candidates(self, count: int) -> tuple[Listed, np.ndarray]:
    """Returns `count` candidates in exact order, and how far that is certain.

    Returns:
      (candidates, [n, count] bool: nothing else can come before this one).
    """
    users = self._users
    if self._plain:
      found = self._pass(count, None)
      exact = self._nearest(found)
      listed, values = self._in_order(self._everyone, found.items, exact)
      values = listed.distances
      rest = np.sqrt(np.maximum(found.rest, 0.0).astype(np.float64))
    else:
      pad = functools.partial(blocks.pad_rows, rows=users.rows)
      cf, cf_range = users.weights.cf, None
      if cf is not None:
        cf_range = (
          pad(cf.low.astype(np.float32)),
          pad(cf.span.astype(np.float32)),
        )
      weighting = lowest.Weighting(
        users.weights.gain,
        cf_range,
        injection.Gammas(*(np.asarray(x, np.float32) for x in users.gammas)),
        pad(self._least.astype(np.float32)),
      )
      found = self._pass(count, weighting)
      listed, values = self._in_order(self._everyone, found.items)
      rest = found.rest
    if count == self._total:
      return listed, np.ones(listed.items.shape, bool)
    return listed, values < rest[:, None]

  def _exact(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Returns true distances [m, c] of users `rows` [m] to items [m, c]."""
    users = np.repeat(rows, items.shape[1])
    found = distance.exact_pairs(
      self._users.queries, self._table, users, items.ravel()
    )
    return found.reshape(items.shape)

  def _in_order(
    self,
    rows: np.ndarray,
    items: np.ndarray,
    exact: np.ndarray | None = None,
  ) -> tuple[Listed, np.ndarray]:
    """Sorts items [m, c] of users `rows` [m] by fused distance, then by index.

    Returns:
      (the items, logarithms of their fused distances [m, c]).
    """
    if exact is None:
      exact = self._exact(rows, items)
    weights, gammas = self._users.weights, self._users.gammas
    users, flat = np.repeat(rows, items.shape[1]), items.ravel()
    above = exact.ravel() - self._least[users]
    fused = weights.shrinkage(users, flat, gammas) * above
    with np.errstate(divide="ignore"):
      logs = np.log(above) - weights.log_weight(users, flat, gammas)
    # Where even float64 ends, logarithms go on.
    order = np.lexsort((flat, logs, fused, users)).reshape(items.shape)
    listed = Listed(
      flat[order].astype(np.int32),
      fused[order],
      exact.ravel()[order],
      self._spread[rows],
    )
    return listed, logs[order]

  def _cut(self, found: Listed, kept: np.ndarray, k: int) -> Listed:
    """Returns the first k kept of each row; -1 where there are no more."""
    order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
    missing = [(0, 0), (0, k - order.shape[1])]  # Where fewer are allowed.
    items, fused, distances, kept = (
      np.pad(np.take_along_axis(x, order, axis=1), missing)
      for x in (*found[:3], kept)
    )
    items = np.where(kept, items, -1).astype(np.int32)
    return Listed(items, fused, distances, self._spread)
