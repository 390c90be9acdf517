"""One cell: a system trained and judged by the product, its rows kept.

{..., as quality/cells.py, "measured": {row: {split: values}}}. Values of a row
whose protocol is a ranking: "hr" and "ndcg" by cutoff, "ranks" of every user.
Of others: "metrics" as the product has them, and "each", whole numbers of every
example: hits in millionths, labels, and places of scores among all (equal ones
share one), of which the AUC is made again. `quality.cells.unpack` reads both.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.quality import cells, product
from benchmarks.systems import page, recipes, shared
from bigrec_jax import errors
from bigrec_jax.results import (
  ground_file,
  item_fairness,
  metrics,
  rows as rows_lib,
)
from bigrec_jax.stages import (
  evaluate,
  item_fairness as fairness_stage,
  prepare,
  session as session_lib,
  train,
)
from bigrec_jax.workdir import arrays, records, storage

_MILLION = 1_000_000
_SHOWN = (
  "task.name",
  "prompt.style",
  "lora.rank",
  "train.learning_rate",
  "train.batch_size",
  "train.num_epochs",
  "train.first.num_epochs",
  "train.objective",
  "generate.num_beams",
  "generate.constrained",
)


def make(at: shared.Place, system: str, seed: int) -> None:
  """Makes a cell, unless it is there.

  Raises:
    UserError: there is no such system, or it can't run on these data.
  """
  if system not in page.SYSTEMS:
    raise errors.UserError(
      f"--system: {system!r} found, one of {', '.join(page.SYSTEMS)} expected"
    )
  name = at.name(system, seed)
  if at.is_made(name):
    return
  if system in page.RANKERS:
    _ranker(at, system, seed)
    return
  recipe = recipes.RECIPES[system]
  if at.data in recipe.why_not:
    raise errors.UserError(
      f"--system: {system} found, not of {at.data}: {recipe.why_not[at.data]}"
    )
  _system(at, system, seed, recipe)


def _ranker(at: shared.Place, system: str, seed: int) -> None:
  """Ranks by what was counted, or by the CF model that others inject."""
  from bigrec_jax.rankers import baselines

  workdir = shared.with_cf(at, seed)
  clock = shared.Clock(workdir)
  keys = at.data_keys | {"seed": seed} | at.cf_keys
  config = recipes.RECIPES["bigrec"].configuration()
  settings: dict[str, Any] = {}
  found: dict[str, Any] = {}
  with shared.session(workdir, config, keys) as made:
    made.make(prepare.STAGE)
    if system == "bm25":
      with clock.time(f"rank {system}"):
        words = product.by_words(made)
      settings = words.choice.to_json()
    for split in cells.SPLITS:
      with clock.time(f"rank {system}"):
        if system == "random":
          ranker = baselines.Random(len(made.catalogue), seed)
        elif system == "bm25":
          ranker = words.ranker(made.examples(split).history)
        else:
          ranker = _scores(made, system, split)
        ranks = product.ranks(made, split, ranker)
      found[split] = ranking(ranks)
    if system in shared.MODELS:
      entry = storage.read_object(made.paths.metrics / "cf.json")[system]
      settings = {key: entry[key] for key in _CF_KEPT if key in entry}
    prints = product.fingerprints(made)
  spent = (f"rank {system}", system)
  settings["cost"] = {
    "cpu_seconds": {key: clock.cpu[key] for key in spent if key in clock.cpu}
  }
  seconds = {key: clock.wall[key] for key in spent if key in clock.wall}
  name = at.name(system, seed)
  measured = {system: found}
  cells.write(at.results, name, measured, settings, prints, seconds)


_CF_KEPT = ("train_rows", "epochs", "best_epoch", "learning_rate")


def _scores(made: session_lib.Session, model: str, split: str) -> Any:
  from bigrec_jax.cf import scores as cf_scores
  from bigrec_jax.rankers import cf as cf_rankers

  path = made.paths.cf_scores(model, split)
  return cf_rankers.of_scores(
    cf_scores.load_scores(path, made.examples(split), made.catalogue)
  )


def changes(
  at: shared.Place, system: str, seed: int, base: str
) -> dict[str, Any]:
  """Returns what a system's configuration has beside its config file."""
  common = shared.tuning(seed) | shared.BASES[at.base].keys
  own = recipes.changes(system, at.data)
  found = common | own | at.data_keys | at.cf_keys | {"model.path": base}
  # A base that is made in the system's own workdir is the demo's as well.
  return found if base else found | shared.arch_keys(at)


def _system(
  at: shared.Place, system: str, seed: int, recipe: recipes.Recipe
) -> None:
  """Trains and judges a system in a workdir of its own."""
  base = ""
  if not (recipe.own_base and at.base == "small"):
    base = shared.base_of(at, seed)
  source = shared.with_cf(at, seed)
  if recipe.source:
    source = at.work / f"{recipe.source}-{seed}"
    if not source.exists():
      raise errors.UserError(
        f"{source}: not found, the workdir of {recipe.source} expected: make"
        " that cell first"
      )
  workdir = product.copied(source, at.work / f"{system}-{seed}")
  clock, own = shared.Clock(workdir), changes(at, system, seed, base)
  with shared.session(workdir, recipe.configuration(), own) as made:
    grounds = made.task.grounds
    if made.task.trains:
      with clock.time("train"):
        made.make(*train.needed(made))
    with clock.time("evaluate"):
      made.make(evaluate.stage(made))
    if system == "bigrec":
      with clock.time("item fairness"):
        made.make(fairness_stage.STAGE)
    measured = _grounded(made) if grounds else of_task(made, recipe.rows)
    flat = records.flatten(made.config.to_dict())
    speeds = storage.read_json_if_whole(made.paths.throughput) or {}
    prints = product.fingerprints(made)
    fairness = _item_fairness(made) if system == "bigrec" else []
  settings = {key: flat[key] for key in _SHOWN}
  settings["cost"] = {
    "cpu_seconds": clock.cpu,
    "train_tokens": sum(
      own["count"]
      for key, own in speeds.items()
      if key in ("train", "first") and own["unit"] == "tokens"
    ),
    # Its own is made in the step train.
    "base_cpu_seconds": shared.Clock(at.work / f"base-{seed}").cpu
    if base
    else {},
  }
  if fairness:
    settings["item_fairness"] = fairness
  name = at.name(system, seed)
  cells.write(at.results, name, measured, settings, prints, clock.wall)


def ranking(ranks: np.ndarray) -> dict[str, Any]:
  """Returns a row of one split that is a ranking, by ranks [N]."""
  found = metrics.summarise(ranks, shared.CUTOFFS)
  return {**found, "ranks": cells.pack(ranks)}


def _grounded(made: session_lib.Session) -> dict[str, Any]:
  """Returns the rows of ground_eval that have the rank of every user."""
  from benchmarks.quality import lm_cells

  found = ground_file.read(made.paths.ground_eval)
  by_split = {
    split: arrays.read_npz(made.paths.ranks / f"{split}.npz")
    for split in cells.SPLITS
  }
  measured = lm_cells.measured_rows(found, by_split)
  return {
    row: {
      split: ranking(cells.unpack(own["ranks"]))
      for split, own in splits.items()
    }
    for row, splits in measured.items()
    if row in recipes.GROUNDED and all("ranks" in x for x in splits.values())
  }


def of_task(
  made: session_lib.Session, wanted: Mapping[str, recipes.Row]
) -> dict[str, Any]:
  """Returns the rows of metrics/<task>.json, and of every example."""
  name = made.task.name
  found = rows_lib.read_task(made.paths.task_metrics(name))
  each = rows_lib.read_each(made.paths.task_each(name))
  measured: dict[str, Any] = {}
  for row in found:
    if wanted and row.system not in wanted:
      continue
    own = {
      key: values
      for (split, system, key), values in each.items()
      if (split, system) == (row.split, row.system)
    }
    measured.setdefault(row.system, {})[row.split] = values_of(row, own)
  return measured


def values_of(
  row: rows_lib.TaskRow, each: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """Returns a row as a cell has it.

  Args:
    row: of the product.
    each: values [N] by name, as the product keeps them.
  """
  if "rank" in each:
    return ranking(each["rank"])
  lists = {k: each.get(f"rank@{k}") for k in shared.CUTOFFS}
  if all(ranks is not None for ranks in lists.values()):
    # A list of K is not the beginning of a longer one.
    found: dict[str, Any] = {"hr": {}, "ndcg": {}}
    for k, ranks in lists.items():
      for name, own in metrics.summarise(ranks, (k,)).items():
        found[name] |= own
    return {**found, "ranks": cells.pack(lists[max(lists)])}
  packed = {}
  for name, values in each.items():
    if name == "score":
      packed[name] = cells.pack(np.unique(values, return_inverse=True)[1])
    elif name == "label":
      packed[name] = cells.pack(values.astype(np.int64))
    elif name != "error":
      packed[name] = cells.pack(np.rint(values * _MILLION).astype(np.int64))
  return {
    "n": row.n,
    "metrics": dict(row.metrics),
    "ci95": {name: list(ends) for name, ends in row.ci95.items()},
    "each": packed,
  }


def _item_fairness(made: session_lib.Session) -> list[dict[str, Any]]:
  """Returns IFairLRS's measures of every ranker."""
  found = item_fairness.read(made.paths.item_fairness)
  return [
    {
      key: getattr(row, key)
      for key in ("ranker", "grouping", "k", "mgu", "dgu", "ci95")
    }
    for row in found.rows
  ]
