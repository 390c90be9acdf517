"""BM25 over catalogue titles: a text, or a history of titles, is a query.

  score(query, item) = sum over t of
    c_t * idf_t * f_t * (k1 + 1) / (f_t + k1 * (1 - b + b * length / average))
  idf_t = ln(1 + (I - n_t + 0.5) / (n_t + 0.5))

c_t and f_t count the token t in query and title, n_t the items whose titles
have it; length is the title's, in tokens, average that of all titles
(Robertson and Zaragoza, 2009, with the idf of Lucene, which is never
negative). In `bm25s` this is the method "atire" with the idf "lucene"; its
method "lucene" leaves out k1 + 1, which changes no order.

Tokens are runs of letters, digits and underscores in lower case. One
character is a token ("Halo 3" is not "Halo 2"); there are neither stop words
nor stemming, for titles are short and not all of them are English.

Equal scores are in catalogue order. A query without any token of the
catalogue scores 0 everywhere, so its order is the catalogue's.

Letters: N queries, n queries of a block, I items, V tokens.
"""

import dataclasses
import logging
from collections.abc import Iterable, Sequence

import bm25s
import numpy as np
from scipy import sparse

from bigrec_jax.devices import blocks
from bigrec_jax.rankers import dense

_TOKEN = r"(?u)\b\w+\b"
_QUERIES = 32  # At a time: their counts of all tokens stay in the cache.
# It would tell of every index and every empty query.
logging.getLogger("bm25s").setLevel(logging.WARNING)


def tokenize(texts: Sequence[str]) -> list[list[str]]:
  """Returns the tokens of each text, in their order."""
  return bm25s.tokenize(
    list(texts),
    token_pattern=_TOKEN,
    stopwords=None,
    return_ids=False,
    show_progress=False,
  )


class Terms:
  """The tokens of all titles: what no parameter changes.

  Attributes:
    vocabulary: token -> number, in the order of the catalogue.
    tokens: of each item, their numbers.
  """

  def __init__(self, titles: Sequence[str]):
    """Reads the titles of the catalogue, at least one."""
    self.vocabulary: dict[str, int] = {}
    number = self.vocabulary.setdefault
    self.tokens = [
      [number(token, len(self.vocabulary)) for token in title]
      for title in tokenize(titles)
    ]

  def counts(self, texts: Sequence[str]) -> sparse.csr_array:
    """Returns queries [N, V] float32: how often a text has each token."""
    known = self.vocabulary
    return self._count(
      [known[token] for token in text if token in known]
      for text in tokenize(texts)
    )

  def history_counts(self, history: np.ndarray) -> sparse.csr_array:
    """Returns queries [N, V] float32 of all titles of a history together.

    Args:
      history: [N, H] catalogue rows, padded with -1; none = an empty query.
    """
    return self._count(
      [token for item in items if item >= 0 for token in self.tokens[item]]
      for items in history.tolist()
    )

  def presence(self) -> sparse.csr_array:
    """Returns [I, V] float32, 1 where a title has a token."""
    found = self._count(self.tokens)
    found.data[:] = 1.0
    return found

  def _count(self, queries: Iterable[list[int]]) -> sparse.csr_array:
    queries = list(queries)
    ends = np.cumsum([0, *map(len, queries)])
    numbers = np.fromiter((t for q in queries for t in q), np.int32, ends[-1])
    ones = np.ones(len(numbers), np.float32)
    found = sparse.csr_array(
      (ones, numbers, ends), shape=(len(queries), len(self.vocabulary))
    )
    found.sum_duplicates()
    return found


@dataclasses.dataclass(frozen=True)
class Settings:
  """k1: how slowly repeats of a token saturate; b: how much length counts."""

  k1: float
  b: float


class Index:
  """The titles under one pair of parameters.

  Attributes:
    weights: [I, V] float32, what a token of the query adds to an item's score.
  """

  def __init__(self, terms: Terms, settings: Settings):
    """Makes the weights."""
    shape = len(terms.tokens), len(terms.vocabulary)
    if not terms.vocabulary:  # Titles of punctuation alone.
      self.weights = sparse.csr_array(shape, dtype=np.float32)
      return
    index = bm25s.BM25(
      k1=settings.k1, b=settings.b, method="atire", idf_method="lucene"
    )
    index.index(
      (terms.tokens, dict(terms.vocabulary)),
      create_empty_token=False,
      show_progress=False,
    )
    part = index.scores
    columns = part["data"], part["indices"], part["indptr"]
    # By rows: each item sums its own tokens in one order, so that items of
    # the same tokens have the very same score.
    self.weights = sparse.csc_array(columns, shape=shape).tocsr()

  def scores(self, queries: sparse.csr_array) -> np.ndarray:
    """Returns the scores [n, I] float32 of queries [n, V]."""
    found = np.empty((queries.shape[0], self.weights.shape[0]), np.float32)
    for part in blocks.user_blocks(len(found), _QUERIES):
      # Four times as fast as bm25s' own loop over the tokens of each query, and
      # what it costs doesn't depend on how common they are.
      dense_queries = np.ascontiguousarray(queries[part].toarray().T)
      found[part] = (self.weights @ dense_queries).T
    return found

  def ranker(self, queries: sparse.csr_array) -> dense.Dense:
    """Returns the ranker of all queries [N, V]."""
    return dense.Dense(
      lambda users: self.scores(queries[users]), self.weights.shape[0]
    )

  def at(self, items: np.ndarray) -> "Index":
    """Returns an index of some items, weighed as among all of them."""
    part = object.__new__(Index)
    part.weights = self.weights[items]
    return part
