"""The published grounding procedure, naively, in numpy float64: the oracle.

docs/protocol.md (Formulas, Grounding, Gamma) in the plainest words: full
matrices, sorts, loops over gammas. Nothing of bigrec_jax is used.
"""

import math

import numpy as np

GRIDS = {
  "movie_ci": [i / 100 for i in range(100)] + list(range(1, 100)),
  "game_ci": [i / 100 for i in range(1, 101)] + list(range(1, 100)),
  "movie_pda": list(range(100)),
}


def distances(queries, items):
  difference = queries[:, None].astype(np.float64) - items[None]
  return np.sqrt((difference**2).sum(axis=2))


def places(scores):
  """Every item's place in each row's stable ascending sort."""
  return np.argsort(np.argsort(scores, axis=1, kind="stable"), axis=1)


def ranks(scores, titles, targets, duplicates):
  """`best`: id2name.txt's rule; `last`: a dict title -> id over movies.dat."""
  place = places(scores)
  result = []
  for user, target in enumerate(targets):
    rows = [i for i, title in enumerate(titles) if title == titles[target]]
    chosen = rows if duplicates == "best" else rows[-1:]
    result.append(min(int(place[user, i]) for i in chosen))
  return np.array(result)


def ndcg(rank_list, k):
  total = 0.0
  for rank in rank_list:
    if rank < k:
      total += 1 / math.log(rank + 2)
  return total / len(rank_list) / (1.0 / math.log(2))


def hr(rank_list, k):
  return sum(1 for rank in rank_list if rank < k) / len(rank_list)


METRICS = {"ndcg": ndcg, "hr": hr}


def min_max(values):
  values = values.astype(np.float64)
  low = values.min(axis=-1, keepdims=True)
  return (values - low) / (values.max(axis=-1, keepdims=True) - low)


def weight(name, popularity, cf):
  factor = 1.0
  if "popularity" in name:
    factor = factor * (1 + min_max(np.asarray(popularity))[None])
  if "cf" in name:
    factor = factor * (1 + min_max(cf))
  return factor


def injected(split, name, gamma, world):
  """Ranks of one split at one gamma."""
  normal = min_max(distances(split["queries"], world["items"]))
  factor = weight(name, world["popularity"], split["cf"])
  return ranks(
    factor**-gamma * normal,
    world["titles"],
    split["targets"],
    world["duplicates"],
  )


def first_best(values, gammas):
  best, chosen = 0, -1
  for value, gamma in zip(values, gammas, strict=True):
    if value > best:
      best, chosen = value, gamma
  return chosen


def table(world, name, cutoffs, grid, quirks):
  """Gammas per metric and K on valid, then test's metrics at them."""
  by_gamma = [injected(world["valid"], name, g, world) for g in grid]
  chosen = {metric: {} for metric in METRICS}
  for metric in METRICS:
    tuned = METRICS["ndcg"] if quirks else METRICS[metric]
    for k in cutoffs:
      values = [tuned(r, k) for r in by_gamma]
      chosen[metric][str(k)] = first_best(values, grid)
  tested = {}
  result = {metric: {} for metric in METRICS}
  for metric in METRICS:
    for k in cutoffs:
      gamma = chosen[metric][str(k)]
      if gamma not in tested:
        tested[gamma] = injected(world["test"], name, gamma, world)
      result[metric][str(k)] = METRICS[metric](tested[gamma], k)
  return chosen, result, tested


def world(seed, num_items=211, width=37, users=(41, 37), duplicates="best"):
  """Vectors of norm 1 to 200, duplicate titles, exact-title queries."""
  rng = np.random.default_rng(seed)
  items = rng.standard_normal((num_items, width))
  norms = np.exp(rng.uniform(0, np.log(200), size=(num_items, 1)))
  items = (items / np.linalg.norm(items, axis=1, keepdims=True) * norms).astype(
    np.float32
  )
  titles = [f"title {i}" for i in range(num_items)]
  for first, *others in ([3, 50, 51, 52], [99, 100], [7, num_items - 1]):
    for other in others:
      titles[other], items[other] = titles[first], items[first]
  popularity = rng.zipf(1.4, size=num_items).clip(0, 5000)
  made = {
    "items": items,
    "titles": titles,
    "popularity": popularity,
    "duplicates": duplicates,
  }
  for split, count in zip(("valid", "test"), users, strict=True):
    targets = rng.integers(0, num_items, size=count).astype(np.int32)
    targets[:4] = [51, 100, 7, 3]
    noise = rng.standard_normal((count, width)) * rng.uniform(
      0, 0.35, size=(count, 1)
    )
    length = np.linalg.norm(items[targets], axis=1, keepdims=True)
    queries = (items[targets] + noise * length).astype(np.float32)
    queries[0], queries[1] = items[3], items[100]  # The target itself.
    queries[4:8] = items[
      [3, 99, 7, num_items - 11]
    ]  # Another title, maybe thrice there.
    queries[8] = items[targets[8]] * np.float32(1 + 3e-7)  # Nearly exact.
    popular = np.log1p(popularity)[None]
    cf = rng.standard_normal((count, num_items)) + popular
    cf[np.arange(count), targets] += rng.uniform(0, 4, size=count)
    made[split] = {
      "queries": queries,
      "targets": targets,
      "cf": cf.astype(np.float32),
    }
  return made


def groups(titles):
  first = {}
  return np.array(
    [first.setdefault(title, row) for row, title in enumerate(titles)],
    np.int32,
  )
