"""What lists are like beside being right: spread, variety, how well known.

Lists are [N, K] catalogue rows, best first, padded with -1.

  coverage   share of the catalogue that is in any list (Herlocker et al. 2004,
             TOIS 22)
  Gini       how unequally items are listed, from 0, all alike, to nearly 1
             (Fleder and Hosanagar 2009, Management Science 55)
  novelty    mean self-information of what is listed, -log2 of an item's share
             in train, in bits (Zhou et al. 2010, PNAS 107); a purchase is added
             to each item, so that one that nobody had is finite
  diversity  1 - the mean Jaccard similarity of the words of two titles of a
             list (results/list_metrics.py)

Letters: N users, K list length, I items.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import sparse

from bigrec_jax.results import list_metrics

NAMES = ("coverage", "gini", "novelty", "diversity")


def measures(
  lists: np.ndarray, popularity: np.ndarray, titles: Sequence[str]
) -> dict[str, float]:
  """Returns all measures of lists with at least one item.

  Args:
    lists: [N, K].
    popularity: [I] interactions in train.
    titles: [I].
  """
  variety = list_metrics.diversity(lists, words(titles))
  known = variety[~np.isnan(variety)]
  return {
    "coverage": coverage(lists, len(titles)),
    "gini": gini(lists, len(titles)),
    "novelty": novelty(lists, popularity),
    "diversity": float(known.mean()) if known.size else float("nan"),
  }


def coverage(lists: np.ndarray, items: int) -> float:
  """Returns the share of I items that are listed."""
  return len(np.unique(lists[lists >= 0])) / items


def gini(lists: np.ndarray, items: int) -> float:
  """Returns the Gini coefficient of how often each of I items is listed."""
  counts = np.sort(np.bincount(lists[lists >= 0], minlength=items))
  places = np.arange(1, items + 1)
  return float(((2 * places - items - 1) * counts).sum() / items / counts.sum())


def novelty(lists: np.ndarray, popularity: np.ndarray) -> float:
  """Returns the mean of -log2 (count + 1) / (all + I) over what is listed."""
  share = (popularity + 1.0) / (popularity.sum() + len(popularity))
  return float(-np.log2(share[lists[lists >= 0]]).mean())


def words(titles: Sequence[str]) -> sparse.csr_array:
  """Returns [I, V]: 1 where a title has a word, in lower case."""
  columns: dict[str, int] = {}
  pairs = [
    (row, columns.setdefault(word, len(columns)))
    for row, title in enumerate(titles)
    for word in dict.fromkeys(re.findall(r"\w+", title.lower()))
  ]
  place = np.array(pairs, np.int64).reshape(-1, 2).T
  ones = np.ones(len(pairs), np.float32)
  shape = len(titles), max(len(columns), 1)
  return sparse.csr_array((ones, (place[0], place[1])), shape=shape)


def of_rows(
  rows: Sequence[Sequence[str]], row_of: Mapping[str, int], k: int
) -> np.ndarray:
  """Returns the first k of lists of external ids as catalogue rows [N, k].

  What the catalogue lacks is left out.
  """
  found = np.full((len(rows), k), -1, np.int64)
  for own, ids in zip(found, rows, strict=True):
    known = [row_of[one] for one in ids[:k] if one in row_of]
    own[: len(known)] = known
  return found
