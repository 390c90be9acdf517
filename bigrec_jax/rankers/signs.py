"""What is seen of a written text: how near it is, and whether CF agrees.

Letters: N users, n of a block, I items, D width.
"""

from collections.abc import Callable, Iterator

import numpy as np

from bigrec_jax.devices import blocks
from bigrec_jax.rankers import grounder
from bigrec_jax.rankers.combine import injection
from bigrec_jax.rankers.distance import lists, streamed
from bigrec_jax.results import confidence

_FEW = 64  # Users of a call whose blocks have its size, up to a power of two.
_MOST_CF_SCORES = 1 << 26  # Of a block of users; they are whole rows.

# Users to their CF scores [n, I] float32.
ReadScores = Callable[[slice], np.ndarray]


def of_users(
  table: streamed.Streamed,
  queries: np.ndarray,
  exact: np.ndarray,
  log_probs: np.ndarray,
  read_scores: ReadScores | None,
  *,
  most_users: int,
  most_items: int,
  name: str,
) -> confidence.Signs:
  """Returns the signs of N users, at least one.

  Args:
    table: the catalogue.
    queries: [N, D] float32, embeddings of the texts.
    exact: [N] bool, the text is a title.
    log_probs: [N] scores of the texts, NaN where one has none.
    read_scores: CF scores, asked for a block at a time; None = no CF.
    most_users: of a block.
    most_items: that a device scores at a time.
    name: of the queries, for messages.

  Raises:
    UserError: a query isn't finite.
  """
  items, distance = _nearest(table, queries, most_users, most_items, name)
  place, cold = places(read_scores, items, len(table.host))
  return confidence.Signs(exact, distance, log_probs, place, cold)


def places(
  read_scores: ReadScores | None, items: np.ndarray, num_items: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns CF's places [N] of items, and of whom it knows nothing [N] bool.

  Args:
    read_scores: asked for a block of users at a time; None = no CF.
    items: [N] int32, one of each user.
    num_items: I.

  Returns:
    (places from 0, -1 where CF knows nothing or isn't there; cold users).
  """
  place = np.full(len(items), -1, np.int32)
  cold = np.zeros(len(items), bool)
  if read_scores is None:
    return place, cold
  for part in blocks.user_blocks(
    len(items), max(1, _MOST_CF_SCORES // num_items)
  ):
    scores = read_scores(part)
    # One score for all items says nothing of a user.
    cold[part] = scores.min(axis=1) == scores.max(axis=1)
    place[part] = grounder.places(scores, items[part, None])[:, 0] - 1
  place[cold] = -1
  return place, cold


def _nearest(
  table: streamed.Streamed,
  queries: np.ndarray,
  most_users: int,
  most_items: int,
  name: str,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the nearest items [N], and their share of the largest distance."""
  items, shares = [], []
  for users in _blocks(queries, most_users, name):
    found = lists.top_items(table, users, 1, most_items)
    nearest = found.distances[:, 0]
    items.append(found.items[:, 0])
    # The spread is 1 where all items are equally near.
    shares.append(nearest / (nearest + found.spread))
  return np.concatenate(items), np.concatenate(shares)


def _blocks(
  queries: np.ndarray, most_users: int, name: str
) -> Iterator[lists.Users]:
  """Yields users whose lists nothing shrinks, a block at a time."""
  rows = min(most_users, 1 << (len(queries) - 1).bit_length())
  if len(queries) > _FEW:
    rows = most_users
  for part in blocks.user_blocks(len(queries), rows):
    yield lists.Users(
      np.asarray(queries[part], np.float32),
      rows,
      injection.Injection(None, None),
      injection.Gammas.of(0.0),
      part.start,
      name,
    )


def warm_up(
  table: streamed.Streamed,
  queries: np.ndarray,
  *,
  most_users: int,
  most_items: int,
) -> None:
  """Compiles all that the signs of so many users may take; see `of_users`."""
  for users in _blocks(queries, most_users, "warm-up"):
    lists.warm_up(table, users, 1, 0, most_items)
