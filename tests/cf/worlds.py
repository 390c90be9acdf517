"""Small made-up data for the CF tests."""

import numpy as np

from bigrec_jax.cf import losses, rows, steps, trainer
from bigrec_jax.cf.spec import NetworkSpec
from bigrec_jax.data.prepared.examples import Examples


def examples(split, windows, max_history):
  """Examples of (user, history list, target) in the order of time."""
  history = np.full((len(windows), max_history), -1, np.int32)
  for row, (_, items, _) in zip(history, windows, strict=True):
    kept = items[-max_history:]
    row[: len(kept)] = kept
  number = np.arange(len(windows))
  return Examples(
    split,
    number,
    history,
    np.array([w[2] for w in windows], np.int32),
    np.array([w[0] for w in windows], np.int64),
    number,
  )


def cycle(split, num_users, num_items, max_history, seed):
  """The planted pattern: after item i comes i + 3 (mod num_items)."""
  rng = np.random.default_rng(seed)
  windows = []
  for user in range(num_users):
    length = int(rng.integers(2, max_history + 1))
    items = (rng.integers(num_items) + 3 * np.arange(length + 1)) % num_items
    items = items.tolist()
    windows += [(user, items[:k], items[k]) for k in range(1, length + 1)]
  return examples(split, windows, max_history)


def spec(network="sasrec", family="dros", num_items=23, **changes):
  """A small network; prime sizes where they may be."""
  values = {
    "network": network,
    "family": family,
    "num_items": num_items,
    "rows": 32,
    "hidden_size": 14,
    "num_layers": 2 if family == "s3rec" else 1,
    "num_heads": 2 if family == "s3rec" else 1,
    "max_length": 7,
    "dropout": 0.0,
  } | changes
  return NetworkSpec(**values)


def make_trainer(
  network_spec,
  data,
  mesh,
  *,
  loss="bce",
  dro=False,
  runs=None,
  batch_size=16,
  rate=1e-2,
):
  """A trainer on `data` (Examples)."""
  length = network_spec.max_length
  made = (
    rows.chains(data, length)
    if network_spec.per_position
    else rows.windows(data)
  )
  recipe = steps.Recipe(
    network_spec, losses.LossSpec(loss, 1, dro, 1.0), batch_size, 0.0
  )
  counts = rows.target_counts(data, network_spec.num_items)
  runs = runs or [steps.Trial(0, rate, 1e-6, 0.5)]
  return trainer.CfTrainer(recipe, made, counts, runs, mesh)
