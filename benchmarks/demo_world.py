"""Prints what is attainable in the demo world, before any model is trained.

  python -m benchmarks.demo_world [--num_users=N] [--num_items=N] [--seed=N]

Test = the last tenth of all purchases by time (a user's first is no target).
"""

import time

import numpy as np
from absl import app, flags

from bigrec_jax import config as config_lib
from bigrec_jax.data.formats import synthetic
from bigrec_jax.devices import sharding
from bigrec_jax.rankers import baselines, dense, engine

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
  ranks_of = engine.Ranks(
    t, items, sharding.single_device_mesh(), most_users=1024, groups=group
  )
  for name, users in (("knows the taste", u), ("mean taste", None)):
    law = world.next_item_probabilities(h, users)
    _print(f"oracle ({name})", ranks_of(dense.Dense(law.__getitem__, items)))
  counts = successor_counts(history[:train], target[:train], items)
  popularity = np.bincount(target[:train], minlength=items)
  last = h[np.arange(len(h)), (h >= 0).sum(axis=1) - 1]
  follow = counts[last] + 1e-6 * popularity.astype(np.float32)
  _print(
    "most frequent after the last",
    ranks_of(dense.Dense(follow.__getitem__, items)),
  )
  _print("most popular", ranks_of(baselines.MostPopular(popularity)))
  _print("random", ranks_of(baselines.Random(items, 0)))
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
