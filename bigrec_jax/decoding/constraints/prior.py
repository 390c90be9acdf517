"""D3's text-free assistant: what CF thinks of a title while it is written.

Bao et al., 2024 (arXiv 2406.14900): a CF model gives every item i a probability
p_TF(i), the softmax of its scores over the catalogue. Of the titles that begin
as a hypothesis does, those that go on with a token have a share

  L_TF(h_t | h_<t) = log(sum_{I(h_<=t)} p_TF(i) / sum_{I(h_<t)} p_TF(i)),

I(h) being the items whose titles begin with h,
and a step's score is a * log p(h_t | h_<t, x) + (1 - a) * L_TF(h_t | h_<t).

The titles under a node are a range of the titles in sorted order, and most
nodes share theirs with their only child: G titles have at most 2 G distinct
ranges. A user's mass of each is summed once, when the user is read, and a step
looks up one number for each candidate. Sums are of positive float64 numbers
alone, never differences, so that the mass of a title that CF thinks nothing of
keeps its digits.

Letters: B users, W beams, C candidates, V vocabulary, N nodes, K ranges, I
items, R titles in sorted order.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from bigrec_jax.decoding import selection
from bigrec_jax.decoding.constraints import building, trie as trie_lib

# No mass is smaller: its logarithm is finite, and far below all others.
_LEAST = 1e-300


class Prior(flax.struct.PyTreeNode):
  """The ranges of a trie's nodes, on the devices.

  Attributes:
    range_of: [N] int32, the range of each node's titles.
    weight: [] float32, 1 - a.
  """

  range_of: jax.Array | np.ndarray
  weight: jax.Array | np.ndarray

  def of_users(self, log_masses: jax.Array) -> trie_lib.Adjust:
    """Returns what mixes the priors of users into their candidates.

    Args:
      log_masses: [B, K] float32, from `Masses`.
    """

    def of_ranges(nodes: jax.Array) -> jax.Array:
      ranges = self.range_of[nodes].reshape(len(nodes), -1)
      found = jnp.take_along_axis(log_masses, ranges, axis=1)
      return found.reshape(nodes.shape)

    def adjust(
      found: selection.Candidates, nodes: jax.Array
    ) -> selection.Candidates:
      if found.nodes is None:
        raise ValueError("a prior without a trie")
      norm = found.log_normaliser[:, :, None]  # [B, W, 1]
      share = of_ranges(found.nodes) - of_ranges(nodes)[:, :, None]
      mixed = (1.0 - self.weight) * (found.logits - norm) + self.weight * share
      return found._replace(
        logits=jnp.where(found.logits > -jnp.inf, mixed, -jnp.inf),
        # It has been taken off; what isn't finite still tells.
        log_normaliser=jnp.where(jnp.isfinite(norm), 0.0, norm)[:, :, 0],
      )

    return adjust


class Masses:
  """CF scores of users to the masses of a trie's ranges, on the host.

  Attributes:
    count: K, rounded up as the trie's sizes are.
  """

  def __init__(self, trie: trie_lib.Trie, title_of: np.ndarray):
    """Finds the distinct ranges.

    Args:
      trie: with titles, on the host.
      title_of: [I] int, the row of each item's title among those that the trie
        was built of; titles that it lacks have no mass.
    """
    titles = trie.titles
    if titles is None:
      raise ValueError("a prior needs a trie with titles")
    start, end = np.asarray(titles.start), np.asarray(titles.end)
    rows = np.asarray(titles.rows)
    self._sort_items(rows[rows >= 0], np.asarray(title_of))
    pairs = start.astype(np.int64) << 32 | end
    ranges, first, range_of = np.unique(
      pairs, return_index=True, return_inverse=True
    )
    self._range_of = range_of.astype(np.int32)
    self._start, self._end = ranges >> 32, ranges & 0xFFFFFFFF
    # Nodes are numbered breadth first, and those of a depth share no title.
    self._levels = [
      level[np.argsort(self._start[level])]
      for level in _by_depth(trie, first)
      if len(level)
    ]
    self.count = building.rounded(len(ranges))

  def _sort_items(self, rows: np.ndarray, title_of: np.ndarray) -> None:
    """Keeps which items lie at each place of the sorted titles."""
    place_of = np.full(max(rows.max(), title_of.max()) + 1, -1, np.int64)
    place_of[rows] = np.arange(len(rows))
    places = np.where(title_of >= 0, place_of[title_of], -1)  # [I]
    self._items = np.argsort(places, kind="stable")
    self._items = self._items[np.count_nonzero(places < 0) :]
    self._place_of_item = places[self._items]
    self._titles = len(rows)

  def prior(self, weight: float) -> Prior:
    """Returns what decoding needs of the trie; `weight` is 1 - a."""
    return Prior(self._range_of, np.array(weight, np.float32))

  def __call__(self, scores: np.ndarray) -> np.ndarray:
    """Returns the log masses of users, [B, K] float32.

    Args:
      scores: [B, I] CF scores; their softmax over the items is p_TF.
    """
    scores = np.asarray(scores, np.float64)
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    begins = np.flatnonzero(np.diff(self._place_of_item, prepend=-1))
    # One place more, for ranges that end behind the last title.
    by_title = np.zeros((len(scores), self._titles + 1))
    if len(begins):
      by_title[:, self._place_of_item[begins]] = np.add.reduceat(
        chances[:, self._items], begins, axis=1
      )
    masses = np.zeros((len(scores), self.count))
    for level in self._levels:
      bounds = np.stack([self._start[level], self._end[level]], axis=1).ravel()
      sums = np.add.reduceat(by_title, bounds, axis=1)
      masses[:, level] = sums[:, ::2]
    return np.log(np.maximum(masses, _LEAST)).astype(np.float32)


def _by_depth(trie: trie_lib.Trie, first: np.ndarray) -> list[np.ndarray]:
  """Returns the ranges whose first node is at each depth.

  Args:
    trie: on the host.
    first: [K], the first node of each range.
  """
  first_child = np.asarray(trie.first_child)
  levels, begin, past = [], 0, 1
  while begin < past:
    levels.append(np.flatnonzero((first >= begin) & (first < past)))
    begin, past = past, int(first_child[past])
  return levels
