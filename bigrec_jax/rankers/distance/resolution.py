"""Exact ranks of one block of users: counts by bounds, doubts in float64.

The rank returned for a question (a user, by distance alone or with gammas) is
that of the float64 procedure on the float32 embeddings and scores as given:
exact distances, stable order by item. Only the items that float32 bounds left
in doubt are ever computed that way. `injected` does so under injection.

Letters: n users of a block, Q questions of one device call.
"""

from collections.abc import Callable

import jax
import numpy as np

from bigrec_jax.devices import blocks
from bigrec_jax.rankers.distance import distance, ranking
from bigrec_jax.rankers.distance.user_block import UserBlock

# Users of one sweep, questions of one call about doubts, and most scores that
# either may hold on a device.
USERS = 64
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
  target = target_of(block, everyone, own_distance)
  settings = options(block.table)
  certain, possible = ranking.plain_counts(
    block.device, padded(target, block.rows), block.table.items, **settings
  )
  ranks = np.asarray(certain)[: len(block)].astype(np.int64)
  asked = np.flatnonzero(np.asarray(possible)[: len(block)] != ranks)

  def ask(questions: np.ndarray) -> ranking.Doubts:
    users = asked[questions]
    return ranking.plain_doubts(
      block.device,
      users,
      target_of(block, users, own_distance[users]),
      block.table.items,
      **settings,
    )

  def compare(users, items, questions):
    del questions
    found = distance.exact_pairs(block.queries, block.table, users, items)
    tied = (found == own_distance[users]) & (items < own[users])
    return (found < own_distance[users]) | tied

  ranks[asked] = settle(block, asked, ask, compare)
  return ranks


def settle(
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
  size = call_size(block, _QUESTIONS)
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


def call_size(block: UserBlock, most: int) -> int:
  """Returns how many users or questions one call takes."""
  return min(block.rows, most, max(1, _SCORES // block.table.layout.rows))


def options(table: distance.ItemTable) -> dict:
  """Returns the static arguments of every program over a catalogue."""
  return {
    "width": table.host.shape[1],
    "layout": table.layout,
    "mesh": table.mesh,
  }


def target_of(
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


def padded(tree, rows: int):
  """Returns a tree of arrays [n, ...] padded to `rows`."""
  return jax.tree.map(lambda a: blocks.pad_rows(a, rows), tree)
