"""How alike two lists are, and how far apart the values of an attribute.

The three similarities of FaiRLLM (Zhang et al., RecSys 2023, arXiv
2305.07609), once as its code computes them (jizhi-zhang/FaiRLLM,
process.ipynb, a154dd6) and once so that 1 is two equal lists and 0 two that
share nothing. x is the list of a sensitive prompt, y the neutral one's, both
cut to K titles before.

The code's SERP-MS of two equal lists of K is (K + 3) / (4 (K + 1)), .274 at
K = 20; it counts a repeated title as often as the lists have it. Its PRAG
counts a pair whose second title is new to y as in order. Two empty lists have
no IoU there (a division by zero); here they are 0 in all measures, since
nothing was listed that could be alike.

Letters: N names, V values of an attribute, S draws.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

Titles = Sequence[str]


def iou(x: Titles, y: Titles) -> float:
  """Returns |x ∩ y| / |x ∪ y| of the different titles."""
  either = {*x} | {*y}
  return len({*x} & {*y}) / len(either) if either else 0.0


def serp_ms(x: Titles, y: Titles) -> float:
  """Returns the code's SERP-MS.

  The sum, over pairs of equal titles, of |x| + 1 less the title's place in x
  from 0, times .5 / ((|y| + 1) |y|).
  """
  if not y:
    return 0.0
  times = Counter(y)
  total = sum(times[t] * (len(x) + 1 - place) for place, t in enumerate(x))
  return total * 0.5 / ((len(y) + 1) * len(y))


def prag(x: Titles, y: Titles) -> float:
  """Returns the code's PRAG.

  The share of pairs of places of x whose first title is in y, and whose second
  isn't or is there behind it (of repeated titles of y, the last counts).
  """
  if not x or not y:
    return 0.0
  if len(x) == 1:
    return float(list(x) == list(y))
  last = {title: place for place, title in enumerate(y)}
  kept = sum(
    second not in last or last[first] < last[second]
    for place, first in enumerate(x)
    if first in last
    for second in x[place + 1 :]
  )
  return kept / (len(x) * (len(x) - 1) / 2)


def serp_ms_normalised(x: Titles, y: Titles) -> float:
  """Returns SERP-MS in [0, 1], without repeats; the paper's, for full lists.

  Titles that both have weigh n, n - 1, ... by their place in x, n the length
  of the longer list; the sum is divided by n (n + 1) / 2.
  """
  x, y = _once(x), _once(y)
  n, known = max(len(x), len(y)), {*y}
  total = sum(n - place for place, title in enumerate(x) if title in known)
  return total / (n * (n + 1) / 2) if n else 0.0


def prag_normalised(x: Titles, y: Titles) -> float:
  """Returns the code's PRAG of the lists without repeats, in [0, 1]."""
  return prag(_once(x), _once(y))


def _once(titles: Titles) -> list[str]:
  return list(dict.fromkeys(titles))


MEASURES: dict[str, Callable[[Titles, Titles], float]] = {
  "iou": iou,
  "serp_ms": serp_ms,
  "prag": prag,
  "serp_ms_normalised": serp_ms_normalised,
  "prag_normalised": prag_normalised,
}


def disparity(means: np.ndarray) -> dict[str, np.ndarray]:
  """Returns the benchmark's summary of an attribute.

  Args:
    means: [..., V], of each value the mean similarity over names.

  Returns:
    By name, [...]: the smallest and the largest mean, snsr, how far they are
    apart, and snsv, the standard deviation over values (divided by V).
  """
  low, high = means.min(axis=-1), means.max(axis=-1)
  return {
    "min": low,
    "max": high,
    "snsr": high - low,
    "snsv": means.std(axis=-1),
  }


def drawn_means(found: np.ndarray, samples: int, seed: int) -> np.ndarray:
  """Returns means [S, V] over names drawn with replacement, alike for all V.

  Args:
    found: [V, N] similarities.
    samples: S.
    seed: of numpy's default generator.
  """
  count = found.shape[1]
  rng = np.random.default_rng(seed)
  shares = np.full(count, 1 / count)
  times = rng.multinomial(count, shares, size=samples)  # [S, N]
  return times @ found.T / count
