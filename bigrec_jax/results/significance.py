"""Is one system better than another on the same users? Paired tests of ranks.

One system ranks every row once: sign flips of the users' differences, exact
where all that differ do so by the same amount (of HR@K that is McNemar's exact
test), else by random flips. With several training seeds of a system: the
bootstrap over seeds and users. Smucker, Allan and Carterette (CIKM 2007)
compare the two for retrieval; Holm (1979) corrects for many questions.

scipy.stats has the binomial test; its `permutation_test` and `bootstrap` draw
one number a user and sample, which here would take minutes: few users differ,
and those by few different amounts. The tests compare with it.

Where users have several rows, a user's difference is the sum of theirs: users
are drawn and flipped, rows never (clusters.py).

Letters: S seeds, N rows, U users (N where each has one row), Q questions, M
users that differ, B samples.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from bigrec_jax.results import clusters, metrics

FLIPS = "sign flips"
SEEDS = "bootstrap over seeds and users"
# Numbers of samples at a time: bounds memory.
_MOST_DRAWN = 1 << 22
# Above this sum of multiples nobody counts all flips.
_MOST_COUNTED = 20_000
# Of a sum of gains: sums nearer than this are the same number, rounded.
_SAME = 1e-9


@dataclasses.dataclass(frozen=True)
class Question:
  """A metric at a cutoff."""

  metric: str
  k: int


@dataclasses.dataclass(frozen=True)
class Effort:
  """How much is drawn, and of which generator.

  Attributes:
    bootstrap_samples: of an interval, and of the test with several seeds.
    permutations: random sign flips of the test without.
    seed: of numpy's default generator.
  """

  bootstrap_samples: int
  permutations: int
  seed: int


@dataclasses.dataclass(frozen=True)
class Difference:
  """System a against system b on the same users.

  Attributes:
    difference: mean of a minus mean of b.
    ci95: [low, high] of the difference, percentile bootstrap.
    p: two-sided, of the hypothesis that the two are exchangeable (`FLIPS`), or
      that the difference is 0 (`SEEDS`).
    n: rows.
    seeds: of a and of b.
    test: `FLIPS` or `SEEDS`.
  """

  difference: float
  ci95: tuple[float, float]
  p: float
  n: int
  seeds: tuple[int, int]
  test: str


def gains(ranks: np.ndarray, question: Question) -> np.ndarray:
  """Returns what each rank adds to the metric's sum over users.

  Args:
    ranks: integers of any shape, 0 = best.
    question: hr: 1 below the cutoff; ndcg: 1 / log2(rank + 2) below it.

  Returns:
    float64, of the same shape.
  """
  ranks = np.asarray(ranks)
  if ranks.dtype.kind not in "iu" or (ranks.size and ranks.min() < 0):
    raise ValueError(f"{ranks.dtype=}, counts from 0 expected")
  if question.metric not in metrics.METRICS:
    raise ValueError(f"{question.metric=}, one of hr, ndcg expected")
  hit = ranks < question.k
  if question.metric == "hr":
    return hit.astype(np.float64)
  return np.where(hit, 1.0 / np.log2(np.where(hit, ranks, 0) + 2.0), 0.0)


def compare(
  a: np.ndarray,
  b: np.ndarray,
  question: Question,
  effort: Effort,
  users: clusters.Clusters | None = None,
) -> Difference:
  """Tests whether two systems differ on the same users.

  Args:
    a: ranks [N], or [S, N] of S training seeds.
    b: ranks of the same rows in the same order, of as many seeds or others.
    question: metric and cutoff.
    effort: samples and seed.
    users: whose rows these are, where somebody has several.

  Raises:
    ValueError: shapes don't fit.
  """
  return compare_gains(gains(a, question), gains(b, question), effort, users)


def compare_gains(
  a: np.ndarray,
  b: np.ndarray,
  effort: Effort,
  users: clusters.Clusters | None = None,
) -> Difference:
  """Tests what `compare` does, of any measure of rows [N] or [S, N]."""
  a, b = np.atleast_2d(a), np.atleast_2d(b)
  if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not a.size:
    raise ValueError(f"{a.shape=} {b.shape=}, [S, N] of the same rows wanted")
  seeds = len(a), len(b)
  if seeds == (1, 1):
    return paired([a[0] - b[0]], effort, users)[0]
  mean = float(a.mean() - b.mean())
  drawn = seeds_and_users(a, b, effort, users)
  low, high = np.percentile(drawn, [2.5, 97.5])
  # The bootstrap's shift method: how far do draws lie from their centre?
  far = np.count_nonzero(np.abs(drawn - mean) >= abs(mean) - _SAME)
  p = (1 + far) / (1 + len(drawn))
  ends = float(low), float(high)
  return Difference(mean, ends, float(p), a.shape[1], seeds, SEEDS)


def paired(
  differences: Sequence[np.ndarray],
  effort: Effort,
  users: clusters.Clusters | None = None,
) -> list[Difference]:
  """Tests several measures of one pair of systems, with the same flips.

  Args:
    differences: of each question [N], a row's gain by a minus that by b.
    effort: samples and seed.
    users: whose rows these are, where somebody has several.
  """
  rows = np.stack(differences).astype(np.float64)  # [Q, N]
  flipped = rows if users is None else users.sums(rows)  # [Q, U]
  p = sign_flip_p(flipped, effort.permutations, effort.seed)
  found = []
  for row, own in zip(rows, p, strict=True):
    about = effort.bootstrap_samples, effort.seed
    ends = (
      interval(row, *about) if users is None else users.interval(row, *about)
    )
    mean = float(row.mean())
    found.append(Difference(mean, ends, own, len(row), (1, 1), FLIPS))
  return found


def sign_flip_p(
  differences: np.ndarray, permutations: int, seed: int
) -> list[float]:
  """Returns the two-sided p of the paired permutation test, a question each.

  The statistic is the mean difference; where systems are exchangeable every
  user's difference is as likely with the other sign. All flips are counted
  where there are at most `permutations`, or where those that differ do so by
  whole multiples of one amount, as hits do; else p = (1 + as far or farther) /
  (1 + permutations), which is valid whatever their number (Phipson and Smyth
  2010).

  Args:
    differences: [Q, U], a user's sum.
    permutations: random flips.
    seed: of numpy's default generator.
  """
  differing = differences[:, differences.any(axis=0)]  # [Q, M]
  p = [_exact(row) for row in differing]
  left = [number for number, known in enumerate(p) if known is None]
  if left:
    rows = differing[left]
    rows = rows[:, rows.any(axis=0)]
    found = _by_flips(rows, permutations, seed)
    for number, own in zip(left, found, strict=True):
      p[number] = own
  return [float(own) for own in p if own is not None]


def _exact(row: np.ndarray) -> float | None:
  """Returns the exact p where sizes are few multiples of one, else None.

  So they are where hits are compared: a user's sum is a whole number.
  """
  sizes = np.abs(row[row != 0])
  if not sizes.size:
    return 1.0
  times = np.rint(sizes / sizes.min()).astype(np.int64)
  unit = sizes.sum() / times.sum()
  is_multiple = np.abs(sizes - times * unit).max() <= _SAME * sizes.max()
  if not is_multiple or times.sum() > _MOST_COUNTED:
    return None
  from scipy import stats  # Slow to import.

  if times.max() == 1:
    wins = int(np.count_nonzero(row > 0))
    return float(stats.binomtest(wins, sizes.size, 0.5).pvalue)
  chance = np.ones(1)  # Of each sum of the sizes that stay positive.
  for size, users in zip(*np.unique(times, return_counts=True), strict=True):
    own = np.zeros(size * users + 1)
    own[::size] = stats.binom.pmf(np.arange(users + 1), users, 0.5)
    chance = np.convolve(chance, own)
  total = abs(round(float(row.sum() / unit)))
  far = np.abs(2 * np.arange(len(chance)) - times.sum()) >= total
  return min(1.0, float(chance[far].sum()))


def _by_flips(rows: np.ndarray, permutations: int, seed: int) -> np.ndarray:
  """Returns p [Q] by all flips of M users, or by random ones."""
  users = rows.shape[1]
  total = rows.sum(axis=1)  # [Q]
  least = np.abs(total) - _SAME * np.abs(rows).sum(axis=1)
  far = np.zeros(len(rows), np.int64)
  every = 2**users <= permutations
  samples = 2**users if every else permutations
  rng = np.random.default_rng(seed)
  step = max(1, _MOST_DRAWN // users)
  for start in range(0, samples, step):
    size = min(step, samples - start)
    if every:
      number = np.arange(start, start + size)[:, None]
      kept = (number >> np.arange(users) & 1).astype(np.uint8)
    else:  # A bit a user is all the chance that is needed.
      drawn = rng.integers(0, 256, (size, -(-users // 8)), np.uint8)
      kept = np.unpackbits(drawn, axis=1, count=users)
    # Signs are 2 kept - 1.
    sums = 2 * (kept.astype(np.float64) @ rows.T) - total  # [size, Q]
    far += np.count_nonzero(np.abs(sums) >= least, axis=0)
  return far / samples if every else (1 + far) / (1 + samples)


def interval(
  differences: np.ndarray, samples: int, seed: int
) -> tuple[float, float]:
  """Returns the 95 % percentile bootstrap interval of a mean over users.

  To draw N users is to draw how many have each of the different values: one
  multinomial a sample, whose cost doesn't grow with N.

  Args:
    differences: [N].
    samples: B.
    seed: of numpy's default generator.
  """
  values, counts = np.unique(differences, return_counts=True)
  users = len(differences)
  rng = np.random.default_rng(seed)
  means = np.concatenate(
    [
      rng.multinomial(users, counts / users, size=size) @ values
      for size in _sizes(samples, len(values))
    ]
  )
  low, high = np.percentile(means / users, [2.5, 97.5])
  return float(low), float(high)


def intervals_of_seeds(
  ranks: np.ndarray,
  cutoffs: Sequence[int],
  effort: Effort,
  users: clusters.Clusters | None = None,
) -> dict[str, dict[str, list[float]]]:
  """Returns {"ndcg": {"1": [low, high], ...}, "hr": {...}} of mean metrics.

  Args:
    ranks: [S, N] of S training seeds.
    cutoffs: of the metrics.
    effort: samples and seed.
    users: whose rows these are, where somebody has several.
  """
  if len(ranks) == 1:
    samples, seed = effort.bootstrap_samples, effort.seed
    return metrics.summarise_ci95(ranks[0], cutoffs, samples, seed, users)
  nothing = np.zeros((1, ranks.shape[1]))
  found: dict[str, dict[str, list[float]]] = {}
  for metric in metrics.METRICS:
    for k in cutoffs:
      own = gains(ranks, Question(metric, k))
      drawn = seeds_and_users(own, nothing, effort, users)
      low, high = np.percentile(drawn, [2.5, 97.5])
      found.setdefault(metric, {})[str(k)] = [float(low), float(high)]
  return found


def seeds_and_users(
  a: np.ndarray,
  b: np.ndarray,
  effort: Effort,
  users: clusters.Clusters | None = None,
) -> np.ndarray:
  """Returns bootstrap draws [B] of the difference of means.

  A sample draws users, the same for both systems, and of each system's S seeds
  S - 1, with replacement: then the spread of the mean over seeds is that of
  the seeds, where drawing S would make it too small by (S - 1) / S (McCarthy
  and Snowden 1985). A system of one seed has no spread of seeds: of popularity
  that is right, of a network it is unknown.

  Args:
    a: gains [S, N].
    b: gains [S', N] of the same rows.
    effort: samples and seed.
    users: whose rows these are, where somebody has several.
  """
  rng, samples = np.random.default_rng(effort.seed), effort.bootstrap_samples
  both = np.concatenate([a, b])  # [S + S', N]
  if users is not None:
    drawn = clusters.means(users.sums(both), users.sizes, samples, rng)
    return _less(drawn, len(a), rng)
  rows = a.shape[1]
  # Users with the same gains everywhere are drawn as one class.
  both, counts = np.unique(both, axis=1, return_counts=True)
  found = []
  for size in _sizes(samples, len(counts)):
    drawn = rng.multinomial(rows, counts / rows, size=size)
    found.append(_less(drawn @ both.T / rows, len(a), rng))
  return np.concatenate(found)


def _less(means: np.ndarray, seeds: int, rng: np.random.Generator):
  """Returns [B]: of [B, S + S'] means the first S seeds' less the others'."""
  own = _over_seeds(means[:, :seeds], rng)
  return own - _over_seeds(means[:, seeds:], rng)


def _over_seeds(means: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Returns [B] means of the seeds that each sample draws of [B, S]."""
  samples, seeds = means.shape
  chosen = rng.integers(0, seeds, (samples, max(1, seeds - 1)))
  return np.take_along_axis(means, chosen, axis=1).mean(axis=1)


def _sizes(samples: int, width: int) -> list[int]:
  """Returns how many samples of `width` numbers are drawn at a time."""
  step = max(1, _MOST_DRAWN // width)
  return [min(step, samples - start) for start in range(0, samples, step)]


def holm(p: Sequence[float]) -> list[float]:
  """Returns p corrected for their number, in their order (Holm 1979).

  To reject where the corrected p is below alpha keeps the chance of any false
  rejection in the family below alpha, however the tests depend on each other.
  """
  values = np.asarray(p, np.float64)
  order = np.argsort(values, kind="stable")
  factors = np.arange(len(values), 0, -1)
  raised = np.maximum.accumulate(values[order] * factors)
  found = np.empty_like(values)
  found[order] = np.minimum(raised, 1.0)
  return found.tolist()
