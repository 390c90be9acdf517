"""The few items of a user that a fused score is made for, from every part.

The nearest of each text, the first by each model (CF, BM25 of the history's
titles) and the most popular, each once, in a fixed number of slots. An exact
title is at distance 0, so it is among the nearest of the text that names it.
What a slot has of each part is kept raw; `features` makes numbers of one kind
of it.

Letters: N users, n of a block, B texts of a user, S slots, M models, I items,
D width.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from bigrec_jax.devices import blocks
from bigrec_jax.rankers.combine import injection
from bigrec_jax.rankers.distance import distance, lists, streamed
from bigrec_jax.workdir import parts as parts_lib

# Items that each part gives. Metrics go to the 50th place, which the text and
# a CF model alone should be able to fill.
FIRST_TEXT, OTHER_TEXTS, CF, POPULAR = 64, 32, 64, 32
_LEAST_LOG = -700.0  # About what exp makes more than 0 of.
_FEW = 64  # Users of a call whose blocks have its size, up to a power of two.
_MOST_QUERIES = 512  # Of a block of users.
_MOST_CF_SCORES = (
  1 << 26
)  # That a block of users may have; they are whole rows.

# Users to their CF scores [n, I] float32.
ReadScores = Callable[[slice], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Users:
  """What is known of N users.

  Attributes:
    queries: [N, B, D] float32, embeddings of what was written, best first. A
      user with fewer texts repeats the first.
    log_probs: [N, B] float32, the scores that the texts were written with,
      -inf for a repeated one; None = not known.
    cf: by name of the model, what reads its scores; of CF, or of BM25
      (`features.WORDS`).
    history: [N, H] int32 catalogue rows, padded with -1.
    name: of what the queries are, for messages.
  """

  queries: np.ndarray
  log_probs: np.ndarray | None
  cf: Mapping[str, ReadScores]
  history: np.ndarray
  name: str

  def __len__(self) -> int:
    return len(self.queries)

  def of(self, part: slice) -> "Users":
    """Returns some of the users."""

    def moved(read: ReadScores) -> ReadScores:
      start = part.start
      return lambda own: read(slice(start + own.start, start + own.stop))

    return Users(
      self.queries[part],
      None if self.log_probs is None else self.log_probs[part],
      {name: moved(read) for name, read in self.cf.items()},
      self.history[part],
      self.name,
    )


def repeated(
  queries: np.ndarray, log_probs: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns queries and log-probabilities of a fixed number of texts.

  A user with fewer gets the first again, with no probability: it changes no
  candidate and no feature.

  Args:
    queries: [N, W, D] float32; anything where a user has no more texts.
    log_probs: [N, W], -inf there.
    count: B, at least W; at least 2 are returned, so that features of several
      texts are there whatever was written.
  """
  queries, log_probs = queries.copy(), log_probs.astype(np.float32)
  log_probs[:, 0] = np.maximum(log_probs[:, 0], _LEAST_LOG)  # It is there.
  missing = np.isneginf(log_probs)
  users = np.nonzero(missing)[0]
  queries[missing] = queries[users, 0]
  more = max(count, 2) - queries.shape[1]
  return (
    np.concatenate([queries, *[queries[:, :1]] * more], axis=1),
    np.pad(log_probs, [(0, 0), (0, more)], constant_values=-np.inf),
  )


class Candidates(NamedTuple):
  """Slots of n users; a slot past a user's last holds an item of -1.

  Attributes:
    items: [n, S] int32 catalogue rows, ascending.
    distances: [n, S, B] float64, exact.
    places: [n, S, B] int32 in the list of each text, from 0; the list's length
      where the item is in it nowhere.
    nearest: [n, B] float64, each text's least distance.
    spread: [n, B] float64, its largest minus that, but for a rounding.
    cf: [n, S, M] float32 scores.
    cf_places: [n, S, M] int32, as `places`.
    cf_range: [n, M, 3] float32: lowest and highest score, log of the sum of
      exponentials.
  """

  items: np.ndarray
  distances: np.ndarray
  places: np.ndarray
  nearest: np.ndarray
  spread: np.ndarray
  cf: np.ndarray
  cf_places: np.ndarray
  cf_range: np.ndarray

  @property
  def real(self) -> np.ndarray:
    """[n, S] bool: which slots hold an item."""
    return self.items >= 0

  @property
  def is_near(self) -> np.ndarray:
    """[n, S] bool: which items are in the list of a text."""
    first, others = self.places[:, :, :1], self.places[:, :, 1:]
    near = np.asarray((first < FIRST_TEXT).any(axis=2))
    return near | np.asarray((others < OTHER_TEXTS).any(axis=2))


class Gatherer:
  """A catalogue on the mesh, from which candidates are taken."""

  def __init__(
    self,
    table: streamed.Streamed,
    popularity: np.ndarray,
    *,
    block_items: int,
  ):
    """Finds the most popular.

    Args:
      table: the catalogue.
      popularity: [I] counts; items nobody had are no candidates by it.
      block_items: that a device scores at a time.
    """
    self.table = table
    self._block_items = block_items
    self._popular = np.flatnonzero(popular_places(popularity) < POPULAR)

  def slots(self, texts: int, models: int) -> int:
    """Returns S of users with B texts and M models."""
    count = FIRST_TEXT + (texts - 1) * OTHER_TEXTS + models * CF + POPULAR
    return min(count, len(self.table.host))

  def __call__(
    self,
    users: Users,
    once: parts_lib.Once = parts_lib.at_once,
    most_users: int = _MOST_QUERIES,
  ) -> Candidates:
    """Returns the candidates of N users, at least one.

    Args:
      users: whoever.
      once: knows the blocks of users that were gathered before a kill.
      most_users: of a block.

    Raises:
      UserError: a query or a CF score isn't finite.
    """
    found = [
      Candidates(**once(f"candidates {part.start}-{part.stop}", make))
      for part, make in self._blocks(users, most_users)
    ]
    return Candidates(*map(np.concatenate, zip(*found, strict=True)))

  def _blocks(
    self, users: Users, most: int
  ) -> Iterator[tuple[slice, Callable[[], parts_lib.Arrays]]]:
    rows = max(1, min(most, _MOST_QUERIES // users.queries.shape[1]))
    if len(users) <= _FEW:
      rows = min(rows, 1 << (len(users) - 1).bit_length())
    if users.cf:
      most_scores = _MOST_CF_SCORES // len(users.cf)
      rows = max(1, min(rows, most_scores // len(self.table.host)))
    for part in blocks.user_blocks(len(users), rows):

      def make(part: slice = part) -> parts_lib.Arrays:
        return self._block(users.of(part), rows, part.start)._asdict()

      yield part, make

  def _block(self, users: Users, rows: int, first_row: int) -> Candidates:
    texts, total = users.queries.shape[1], len(self.table.host)
    near, nearest, spread = self._near(users, rows, first_row)
    whole = [
      np.ascontiguousarray(read(slice(0, len(users))), np.float32)
      for read in users.cf.values()
    ]
    for name, scores in zip(users.cf, whole, strict=True):
      injection.score_range(scores, first_row, name)
    by_text = [near[:, n, : _length(n, total)] for n in range(texts)]
    by_cf = [_first(scores, min(CF, total)) for scores in whole]
    items = np.full((len(users), self.slots(texts, len(whole))), -1, np.int32)
    for n, row in enumerate(items):
      of_parts = [listed[n] for listed in (*by_text, *by_cf)]
      own = np.unique(np.concatenate([*of_parts, self._popular]))
      own = own[own >= 0]
      row[: len(own)] = own
    return Candidates(
      items,
      self._distances(users.queries, items),
      np.stack([_places(items, listed) for listed in by_text], axis=2),
      nearest,
      spread,
      _stacked([_at(x, items) for x in whole], items.shape, np.float32, 2),
      _stacked([_places(items, x) for x in by_cf], items.shape, np.int32, 2),
      _stacked(
        [_range(x, self.table.real) for x in whole],
        (len(users), 3),
        np.float32,
        1,
      ),
    )

  def _near(
    self, users: Users, rows: int, first_row: int
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the nearest items [n, B, k] of all texts.

    Returns:
      (items, least distances [n, B], spreads [n, B]).
    """
    count, texts, width = users.queries.shape
    found = lists.top_items(
      self.table,
      lists.Users(
        users.queries.reshape(count * texts, width),
        rows * texts,
        injection.Injection(None, None),
        injection.Gammas.of(0.0),
        first_row * texts,
        users.name,
      ),
      min(FIRST_TEXT, len(self.table.host)),
      self._block_items,
    )
    shape = count, texts
    return (
      found.items.reshape(*shape, -1),
      found.distances[:, 0].reshape(shape),
      found.spread.reshape(shape),
    )

  def _distances(self, queries: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Returns exact distances [n, S, B]; 0 where a slot is empty."""
    texts = queries.shape[1]
    result = np.zeros((*items.shape, texts))
    for own, row, of_slots in zip(items, queries, result, strict=True):
      rows = own[own >= 0]
      vectors = self.table.host[rows]
      for n, query in enumerate(row):
        pairs = np.broadcast_to(query, vectors.shape)
        of_slots[: len(rows), n] = distance.exact(pairs, vectors)
    return result


def popular_places(counts: np.ndarray) -> np.ndarray:
  """Returns each item's place [I] by count, `POPULAR` behind the list."""
  counts = np.asarray(counts)
  places = np.full(len(counts), POPULAR, np.int32)
  first = np.argsort(-counts, kind="stable")[:POPULAR]
  first = first[counts[first] > 0]
  places[first] = np.arange(len(first))
  return places


def _length(text: int, total: int) -> int:
  """Returns how many items the list of a text has."""
  return min(OTHER_TEXTS if text else FIRST_TEXT, total)


def _first(scores: np.ndarray, count: int) -> np.ndarray:
  """Returns the rows of the highest scores [n, count], of equals the first.

  An item at the lowest score of its row is not listed (-1): a model that says
  the same of most items, or of all, doesn't favour the first of the catalogue.
  """
  found = np.full((len(scores), count), -1, np.int32)
  border = np.partition(scores, -count, axis=1)[:, -count]
  for row, own, least in zip(found, scores, border, strict=True):
    items = np.flatnonzero((own >= least) & (own > own.min()))
    items = items[np.argsort(-own[items], kind="stable")[:count]]
    row[: len(items)] = items
  return found


def _places(items: np.ndarray, listed: np.ndarray) -> np.ndarray:
  """Returns the places [n, S] of items [n, S] in lists [n, k]; k = in none."""
  found = np.full(items.shape, listed.shape[1], np.int32)
  for row, own, of_list in zip(found, items, listed, strict=True):
    of_list = of_list[of_list >= 0]
    # Slots are ascending up to the first empty one, and hold all listed items.
    row[np.searchsorted(own[own >= 0], of_list)] = np.arange(len(of_list))
  return found


def _at(scores: np.ndarray, items: np.ndarray) -> np.ndarray:
  """Returns the scores [n, S] of items, 0 where a slot is empty."""
  found = np.take_along_axis(scores, np.maximum(items, 0), axis=1)
  return np.where(items >= 0, found, np.float32(0.0))


def _range(scores: np.ndarray, real: np.ndarray | None) -> np.ndarray:
  """Returns [n, 3]: least, greatest, log of the sum of exponentials.

  Args:
    scores: [n, I].
    real: [I] bool, which rows hold an item; None = all do.
  """
  if real is not None:
    scores = scores[:, real]
  low, high = scores.min(axis=1), scores.max(axis=1)
  # float64 a row at a time: the sum must not hang on how many rows there are.
  sums = [
    np.exp(row - top, dtype=np.float64).sum()
    for row, top in zip(scores, high, strict=True)
  ]
  return np.stack([low, high, high + np.log(sums)], axis=1).astype(np.float32)


def _stacked(
  found: list[np.ndarray], shape: tuple[int, ...], dtype: type, axis: int
) -> np.ndarray:
  """Stacks one array a model; none at all makes an axis of length 0."""
  if found:
    return np.stack(found, axis=axis)
  return np.zeros((*shape[:axis], 0, *shape[axis:]), dtype)
