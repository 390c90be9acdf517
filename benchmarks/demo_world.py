"""Prints what is attainable in the demo world, before any model is trained.

  python -m benchmarks.demo_world [--num_users=N] [--num_items=N] [--seed=N]

Test = the last tenth of all purchases by time (a user's first is no target).
"""

import time

import numpy as np
from absl import app, flags

from bigrec_jax import config as config_lib
from bigrec_jax.data.formats import synthetic

CUTOFFS = (1, 3, 5, 10, 20, 50)
_USERS = flags.DEFINE_integer("num_users", 4000, "Users.")
_ITEMS = flags.DEFINE_integer("num_items", 1200, "Catalogue rows.")
_SEED = flags.DEFINE_integer("seed", 7, "Seed of the world.")


def windows(
  world: synthetic.World,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Returns history [N, 10], target, user, timestamp [N], by time."""
  user, item, timestamp = world.interactions
  place = np.arange(len(user)) - np.searchsorted(user, user)
  targets = np.flatnonzero(place > 0)
  targets = targets[np.argsort(timestamp[targets], kind="stable")]
  count = np.minimum(place[targets], synthetic.MEMORY)
  column = np.arange(synthetic.MEMORY)
  index = targets[:, None] - count[:, None] + column
  history = np.where(
    column < count[:, None], item[np.minimum(index, len(item) - 1)], -1
  )
  return history, item[targets], user[targets], timestamp[targets]


def scores_to_ranks(
  scores: np.ndarray, targets: np.ndarray, group: np.ndarray
) -> np.ndarray:
  """Returns ranks in a descending order of scores [N, I]; best duplicate."""
  same = group[targets, None] == group
  best = np.where(same, scores, -np.inf).argmax(axis=1)
  value = scores[np.arange(len(targets)), best][:, None]
  before = np.arange(scores.shape[1]) < best[:, None]
  return ((scores > value) | ((scores == value) & before)).sum(axis=1)


def successor_counts(
  history: np.ndarray, target: np.ndarray, num_items: int
) -> np.ndarray:
  """Returns how often item j came right after item i in train, [I, I]."""
  last = history[np.arange(len(history)), (history >= 0).sum(axis=1) - 1]
  counts = np.zeros((num_items, num_items), np.float32)
  np.add.at(counts, (last, target), 1.0)
  return counts


def _print(name: str, ranks: np.ndarray) -> None:
  hit = [(ranks < k).mean() for k in CUTOFFS]
  gain = 1 / np.log2(ranks + 2.0)
  ndcg = [(gain * (ranks < k)).mean() for k in CUTOFFS]
  print(f"{name:<30}" + " ".join(f"{v:.4f}" for v in (*hit, *ndcg)))


def main(argv: list[str]) -> None:
  """Builds the world and ranks its test targets in several ways."""
  del argv
  started = time.perf_counter()
  world = synthetic.build(
    config_lib.SyntheticConfig(_USERS.value, _ITEMS.value, _SEED.value)
  )
  seconds = time.perf_counter() - started
  history, target, user, _ = windows(world)
  train, valid = int(0.8 * len(target)), int(0.9 * len(target))
  items, group = len(world.titles), world.shelf.group
  print(
    f"{items} items ({len(set(world.titles))} titles,"
    f" {world.shelf.franchise.max() + 1} franchises), {len(world.tastes)}"
    f" users, {len(world.interactions[0])} purchases, built in {seconds:.1f} s;"
    f" {train} train, {valid - train} valid, {len(target) - valid} test\n"
  )
  heads = [f"{m}@{k}" for m in ("HR", "NG") for k in CUTOFFS]
  print(f"{'':<30}" + " ".join(f"{h:<6}" for h in heads))
  h, t, u = history[valid:], target[valid:], user[valid:]
  _print("oracle (knows the taste)", world.target_ranks(h, t, u))
  _print("oracle (mean taste)", world.target_ranks(h, t, None))
  counts = successor_counts(history[:train], target[:train], items)
  popularity = np.bincount(target[:train], minlength=items)
  last = h[np.arange(len(h)), (h >= 0).sum(axis=1) - 1]
  follow = counts[last] + 1e-6 * popularity.astype(np.float32)
  _print("most frequent after the last", scores_to_ranks(follow, t, group))
  most = np.broadcast_to(popularity.astype(np.float32), (len(t), items))
  _print("most popular", scores_to_ranks(most, t, group))
  noise = np.random.default_rng(0).random((len(t), items), np.float32)
  _print("random", scores_to_ranks(noise, t, group))
  sequels = world.lists["sequel"]
  best = np.array(
    [
      sequels.items[a:b][sequels.probability[a:b].argmax()] if b > a else -1
      for a, b in zip(sequels.starts, sequels.starts[1:], strict=False)
    ]
  )
  print(
    f"\nlast game has a sequel: {sequels.filled()[last].mean():.3f};"
    f" the target is its most likely sequel: {(best[last] == t).mean():.3f}"
  )


if __name__ == "__main__":
  app.run(main)
