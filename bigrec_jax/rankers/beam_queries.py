"""Lists from several queries of a user: the first of each, without repeats.

A user's m queries are texts in the order of the beams that wrote them. A list
of K takes K/m items of each query, the first queries one more where m doesn't
divide K, in the order of the queries; of equal titles it takes one. A query
matches an item with which it shares a token. What a query can't give, the next
one gives beside its own share; what lacks behind the last query comes from the
first one on, whose further matches are taken in their order. A list is shorter
than K only where all queries together match fewer titles: nothing is made up.

Letters: N users, m queries, K list length, U distinct titles.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jax.sharding import Mesh

from bigrec_jax.rankers import bm25, engine


def shares(k: int, queries: int) -> list[int]:
  """Returns how many items each query gives to a list of k."""
  return [k // queries + (n < k % queries) for n in range(queries)]


def merge(found: Sequence[Sequence[int]], k: int) -> list[int]:
  """Returns the list of a user, at most k items.

  Args:
    found: of each query, its matches, best first, none twice; k of them are
      enough.
    k: list length.
  """
  taken: dict[int, None] = {}  # In the order of the list.
  rest = [iter(items) for items in found]

  def take(items, wanted: int) -> int:
    """Takes items that aren't taken yet; returns how many are still wanted."""
    while wanted:
      item = next(items, None)
      if item is None:
        break
      if item not in taken:
        taken[item] = None
        wanted -= 1
    return wanted

  lacking = 0
  for items, share in zip(rest, shares(k, len(found)), strict=True):
    lacking = take(items, share + lacking)
  for items in rest:
    lacking = take(items, lacking)
  return list(taken)


class Retriever:
  """Finds titles for texts; each text is looked up once.

  Attributes:
    titles: [U] int32 catalogue rows, the first of each distinct title.
  """

  def __init__(
    self, terms: bm25.Terms, groups: np.ndarray, mesh: Mesh, most_queries: int
  ):
    """Keeps what no parameter of BM25 changes.

    Args:
      terms: of the catalogue.
      groups: [I] int32, `Catalogue.groups`.
      mesh: all its devices share the titles.
      most_queries: of a block.
    """
    self.titles = np.unique(groups)
    self._terms, self._mesh, self._most = terms, mesh, most_queries

  def __call__(
    self, index: bm25.Index, texts: Sequence[str], k: int
  ) -> Mapping[str, list[int]]:
    """Returns the first k matches of each distinct text, as catalogue rows."""
    texts = list(dict.fromkeys(texts))
    k = min(k, len(self.titles))
    scores, places = engine.lists(
      index.at(self.titles).ranker(self._terms.counts(texts)),
      len(texts),
      len(self.titles),
      self._mesh,
      k=k,
      most_users=self._most,
    )
    found = self.titles[places]  # [texts, k]
    matches = (scores > 0.0).sum(axis=1)
    return {
      text: found[n, : matches[n]].tolist() for n, text in enumerate(texts)
    }


def lists(
  found: Mapping[str, Sequence[int]],
  queries: Sequence[Sequence[str]],
  k: int,
) -> np.ndarray:
  """Returns every user's list [N, K] int32, padded with -1.

  Args:
    found: the matches of each text, k of them or all.
    queries: of each user, at least one text, best first.
    k: K.
  """
  result = np.full((len(queries), k), -1, np.int32)
  for row, texts in zip(result, queries, strict=True):
    items = merge([found[text] for text in texts], k)
    row[: len(items)] = items
  return result
