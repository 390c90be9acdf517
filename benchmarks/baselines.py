"""Measures the CF baselines on the real data sets; see docs/baselines.md.

  python -m benchmarks.baselines --shared=../shared/data --data=beauty \
    --model=sasrec --set family=s3rec --set num_layers=2 --out=runs/baselines

Data: beauty, toys (leave-one-out, histories of 50, seen items masked), game,
toys_chronological, movielens_small (chronological, histories of 10, nothing
masked). Each result is one JSON file in --out; training goes on where it was
if it is killed.
"""

import argparse
import ast
import json
import pathlib
import time

import jax
import numpy as np

from benchmarks import cf_data, scratch
from bigrec_jax import config as config_lib, progress
from bigrec_jax.cf import (
  fitting,
  item_knn,
  networks,
  popularity,
  recipes,
  rows,
  states as cf_states,
  trainer,
)
from bigrec_jax.devices import sharding
from bigrec_jax.rankers import (
  cf as cf_rankers,
  dense,
  engine,
)
from bigrec_jax.results import metrics
from configs import common

CUTOFFS = (1, 3, 5, 10, 20, 50)
SPLITS = ("valid", "test")
DATA = {
  "beauty": ("amazon-2014-loo/Beauty.txt.gz", cf_data.leave_one_out),
  "toys": ("amazon-2014-loo/Toys_and_Games.txt.gz", cf_data.leave_one_out),
  "game": ("game-dllm2rec", cf_data.game),
  "toys_chronological": ("amazon-toys", cf_data.toys_chronological),
  "movielens_small": ("ml-latest-small", cf_data.movielens_small),
}
LONG_HISTORY, HISTORY = 50, 10


def load(shared: pathlib.Path, name: str) -> tuple[cf_data.Dataset, int]:
  """Returns a data set of `DATA` and its longest history."""
  place, reader = DATA[name]
  if reader is cf_data.leave_one_out:
    return reader(shared / place, LONG_HISTORY), LONG_HISTORY
  return reader(shared / place), HISTORY


def cf_config(changes: list[str]) -> config_lib.CfConfig:
  """Returns section `cf` of the defaults with `key=value` changes."""
  config = common.get_config()
  for change in changes:
    key, value = change.split("=", 1)
    try:
      config.cf[key] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      config.cf[key] = value
  return config_lib.from_config_dict(config).cf


def few_shot(data: cf_data.Dataset, count: int, seed: int) -> cf_data.Dataset:
  """Returns the data with `count` random train rows; -1 = all."""
  if count == -1:
    return data
  train = data.splits["train"]
  order = np.random.default_rng(seed).permutation(len(train))[:count]
  return cf_data.Dataset(
    data.splits | {"train": train.take(order)},
    data.num_items,
    data.popularity,
    data.all_popularity,
    data.seen,
  )


def _ranks(data: cf_data.Dataset, mesh) -> dict[str, engine.Ranks]:
  return {
    split: engine.Ranks(
      data.splits[split].target,
      data.num_items,
      mesh,
      most_users=512,
      seen=data.seen.get(split),
    )
    for split in SPLITS
  }


def counted(data: cf_data.Dataset, model: str, config, mesh) -> dict:
  """Measures most_pop, leaky_pop or item_knn; returns ranks and books."""
  ranks_of = _ranks(data, mesh)
  started = time.perf_counter()
  if model == "item_knn":
    knn = item_knn.fit(
      rows.interactions(data.splits["train"]),
      data.num_items,
      config.neighbours,
      config.neighbour_decay,
    )
    ranks = {
      s: [
        ranks_of[s](
          dense.Dense(
            lambda part, s=s: knn.scores(data.splits[s].history[part]),
            data.num_items,
          )
        )
      ]
      for s in SPLITS
    }
  else:
    counts = data.popularity if model == "most_pop" else data.all_popularity
    ranks = {
      s: [
        ranks_of[s](
          cf_rankers.Factorised(popularity.fit(counts, len(data.splits[s])))
        )
      ]
      for s in SPLITS
    }
  return {"ranks": ranks, "seconds_total": time.perf_counter() - started}


def trained(
  data: cf_data.Dataset,
  length: int,
  model: str,
  config: config_lib.CfConfig,
  seed: int,
  mesh,
  directory: pathlib.Path,
  choose_on: str = "valid",
) -> dict:
  """Trains a network; returns ranks and books.

  The epoch that is kept is the best of split `choose_on`: "test" is how some
  published rows were made, and shows what that is worth.
  """
  recipe = recipes.recipe(model, config, data.num_items, length, mesh)
  spec, train = recipe.network, data.splits["train"]
  made = (
    rows.chains(train, length) if spec.per_position else rows.windows(train)
  )
  counts = rows.target_counts(train, data.num_items)
  trainer_ = trainer.CfTrainer(
    recipe, made, counts, recipes.runs(config, seed), mesh
  )
  ranks_of = _ranks(data, mesh)
  encoders = {
    s: cf_states.Encoder(spec, data.splits[s].history, mesh, ranks_of[s].block)
    for s in SPLITS
  }

  def rank(params, split):
    states = encoders[split](params)
    return ranks_of[split](
      cf_rankers.Headed(states, networks.head(spec, params))
    )

  started = time.perf_counter()
  with progress.Progress(config.num_epochs, "epochs", model) as bar:
    fitted = fitting.fit(
      trainer_,
      lambda p: metrics.ndcg(rank(p, choose_on), config.stop_cutoff),
      fitting.Schedule(
        config.num_epochs, config.patience, config.save_every_epochs
      ),
      directory,
      bar,
    )
  seconds = time.perf_counter() - started
  kept = recipes.best_point(fitted.books["best_ndcg"], config.num_seeds)
  params = [fitting.of_run(fitted.params, k) for k in kept]
  warm = [e for e in fitted.books["curve"] if not e["compiled"]]
  return {
    "ranks": {s: [rank(p, s) for p in params] for s in SPLITS},
    "runs": [trainer_.runs[k]._asdict() for k in kept],
    "train_rows": len(made),
    "epochs": len(fitted.books["curve"]),
    "best_epoch": [fitted.books["best_epoch"][k] for k in kept],
    "seconds_per_epoch": float(np.median([e["seconds"] for e in warm])),
    "eval_seconds": float(np.median([e["eval_seconds"] for e in warm])),
    "seconds_this_process": seconds,
  }


def report(result: dict, known: np.ndarray) -> dict:
  """Replaces ranks by metrics: mean over seeds, and their deviation.

  Args:
    result: with `ranks` [N] of each seed, by split.
    known: [N of test] which targets somebody bought in train; their metrics
      are told apart as `test_known`.
  """
  ranks = result.pop("ranks")
  ranks["test_known"] = [each[known] for each in ranks["test"]]
  for split, each in ranks.items():
    found = [metrics.summarise(r, CUTOFFS) for r in each]
    for name in metrics.METRICS:
      table = np.array([list(f[name].values()) for f in found])
      result[f"{split}_{name}"] = dict(
        zip(CUTOFFS, table.mean(axis=0).tolist(), strict=True)
      )
      if len(found) > 1:
        result[f"{split}_{name}_std"] = dict(
          zip(CUTOFFS, table.std(axis=0, ddof=1).tolist(), strict=True)
        )
  return result


def bought_in_train(data: cf_data.Dataset) -> np.ndarray:
  """Returns how often each test target is one in train, [N]."""
  counts = rows.target_counts(data.splits["train"], data.num_items)
  return counts[data.splits["test"].target]


def in_train(data: cf_data.Dataset) -> dict[str, float]:
  """Returns the share of test targets that train knows, and how well.

  "1", "3", "10": so often a target at least; "anywhere": in a history counts.
  """
  bought = bought_in_train(data)
  shares = {str(n): float((bought >= n).mean()) for n in (1, 3, 10)}
  train = data.splits["train"]
  items = np.union1d(train.history, train.target)
  anywhere = np.isin(data.splits["test"].target, items)
  return shares | {"anywhere": float(anywhere.mean())}


def main() -> None:
  """Runs one model on one data set."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--shared", type=pathlib.Path, required=True)
  parser.add_argument("--data", choices=DATA, required=True)
  parser.add_argument("--model", required=True)
  parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--num_train", type=int, default=-1)
  parser.add_argument("--choose_on", choices=SPLITS, default="valid")
  parser.add_argument("--name", default="")
  parser.add_argument("--out", type=pathlib.Path, required=True)
  flags = parser.parse_args()
  config = cf_config(flags.set)
  data, length = load(flags.shared, flags.data)
  data = few_shot(data, flags.num_train, flags.seed)
  mesh = sharding.make_mesh(config_lib.MeshConfig(-1, 1, 1))
  name = flags.name or f"{flags.data}-{flags.model}"
  if flags.model in recipes.TRAINED:
    result = trained(
      data,
      length,
      flags.model,
      config,
      flags.seed,
      mesh,
      flags.out.resolve() / "checkpoints" / name,
      flags.choose_on,
    )
  else:
    result = counted(data, flags.model, config, mesh)
  result = report(result, bought_in_train(data) > 0) | {
    "test_targets_bought_in_train": in_train(data),
    "data": flags.data,
    "model": flags.model,
    "changes": flags.set,
    "seed": flags.seed,
    "num_train": flags.num_train,
    "choose_on": flags.choose_on,
    "devices": [str(d.device_kind) for d in jax.devices()],
    "jax": jax.__version__,
  }
  scratch.write_json(flags.out / f"{name}.json", result)
  print(json.dumps(result, indent=1))


if __name__ == "__main__":
  main()
