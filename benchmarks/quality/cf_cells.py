"""Cells without a language model: counted, by words, and trained CF models.

A network's learning rate and weight decay are chosen on valid (NDCG@20) by a
grid with seed 0, in one program (`cf.grid_*`); then it trains once a seed. A
seed also draws the few-shot rows, which are those of the language model of that
seed. Early stopping is on valid with a patience of 20 epochs: with 10 several
networks end on the plateau of popularity (docs/baselines.md).
"""

import dataclasses
import pathlib
import shutil
from typing import Any

from benchmarks.quality import cells, product
from bigrec_jax.stages import prepare, train_cf
from bigrec_jax.workdir import storage

FEW, ALL = 1024, -1
SEEDS = (0, 1, 2, 3, 4)
# Scores of these seeds are kept, for the language models of the same seeds.
KEPT_SEEDS = (0, 1, 2)
SCHEDULE = {"cf__num_epochs": 200, "cf__patience": 20}
_RATES = (3e-4, 1e-3, 3e-3)
# Of all rows 1e-5 and 1e-4 lose on Game (docs/baselines.md).
_DECAYS = {FEW: (1e-6, 1e-4), ALL: (1e-6,)}


@dataclasses.dataclass(frozen=True)
class Network:
  """A row of the table.

  Attributes:
    model: of `cf.model`.
    loss: of `cf.loss`; "" = nothing is trained.
  """

  model: str
  loss: str = ""

  @property
  def keys(self) -> dict[str, Any]:
    """Its keys beside `cf.model`, dots written as `__`."""
    return {"cf__loss": self.loss} if self.loss else {}


NETWORKS = {
  "gru4rec": Network("gru4rec", "bce"),
  "caser": Network("caser", "bce"),
  "sasrec": Network("sasrec", "bce"),
  "sasrec-softmax": Network("sasrec", "softmax"),
  "dros": Network("dros", "bce"),
}
COUNTED = ("most_pop", "item_knn")


def counted(at: product.Place) -> None:
  """Makes the cells of random, BM25, most_pop and item_knn."""
  for rows in (FEW, ALL):
    # All rows are the same rows whatever the seed.
    for seed in SEEDS if rows == FEW else (0,):
      for model in COUNTED:
        _train(at, at.name(model, rows, seed), Network(model), {})
  name = at.name("random", 0, 0)
  if not at.is_made(name):
    _without_training(at, name)
  name = at.name("bm25", 0, 0)
  if not at.is_made(name):
    _by_words(at, name)


def _without_training(at: product.Place, name: cells.Name) -> None:
  from bigrec_jax.rankers import baselines

  clock = product.Clock()
  with (
    product.session(product.prepared(at), at.changes()) as made,
    clock.time("rank"),
  ):
    made.make(prepare.STAGE)
    ranker = baselines.Random(len(made.catalogue), name.seed)
    found = {s: product.ranks(made, s, ranker) for s in cells.SPLITS}
    prints = product.fingerprints(made)
  rows = {"random": {s: cells.measured(r) for s, r in found.items()}}
  cells.write(at.results, name, rows, {"tried": 0}, prints, clock.seconds)


def _by_words(at: product.Place, name: cells.Name) -> None:
  """BM25 of the titles of the history; k1 and b chosen on valid."""
  clock = product.Clock()
  with (
    product.session(product.prepared(at), at.changes()) as made,
    clock.time("choose and rank"),
  ):
    made.make(prepare.STAGE)
    words = product.by_words(made)
    found = {
      s: product.ranks(made, s, words.ranker(made.examples(s).history))
      for s in cells.SPLITS
    }
    prints = product.fingerprints(made)
  rows = {"bm25": {s: cells.measured(r) for s, r in found.items()}}
  settings = words.choice.to_json()
  cells.write(at.results, name, rows, settings, prints, clock.seconds)


def network(
  at: product.Place, system: str, rows: int, seeds: tuple[int, ...]
) -> None:
  """Makes the cells of a network: the grid once, then a training a seed."""
  own = NETWORKS[system]
  if all(at.is_made(at.name(system, rows, seed)) for seed in seeds):
    return
  chosen = _chosen(at, system, rows, own)
  for seed in seeds:
    _train(at, at.name(system, rows, seed), own, chosen)


def _workdir(at: product.Place, system: str, rows: int) -> pathlib.Path:
  shown = "all" if rows == ALL else str(rows)
  return product.copied(product.prepared(at), at.work / f"cf-{system}-{shown}")


def _chosen(
  at: product.Place, system: str, rows: int, own: Network
) -> dict[str, Any]:
  """Returns the settings that valid likes best, tried once."""
  workdir = _workdir(at, system, rows)
  path = workdir / "chosen_settings.json"
  if path.exists():
    return storage.read_object(path)
  decays = _DECAYS[rows]
  keys = {
    "cf__model": own.model,
    "cf__num_train": rows,
    "cf__grid_learning_rate": _RATES,
    "cf__grid_weight_decay": decays,
    **SCHEDULE,
    **own.keys,
  }
  clock = product.Clock()
  with (
    product.session(workdir, at.changes(**keys)) as made,
    clock.time("choose"),
  ):
    made.make(train_cf.stage(own.model))
    entry = storage.read_object(made.paths.metrics / "cf.json")[own.model]
  result = {
    "learning_rate": entry["learning_rate"],
    "weight_decay": entry["weight_decay"],
    "tried": len(_RATES) * len(decays),
    "chosen_on": "valid NDCG@20, seed 0",
    "seconds_to_choose": round(clock.seconds["choose"], 1),
  }
  storage.write_json(path, result)
  return result


def _train(
  at: product.Place, name: cells.Name, own: Network, chosen: dict[str, Any]
) -> None:
  """Trains one seed, ranks, keeps the scores that others inject."""
  if at.is_made(name):
    return
  workdir = _workdir(at, name.system, name.rows)
  keys = {
    "seed": name.seed,
    "cf__model": own.model,
    "cf__num_train": name.rows,
    "cf__max_dense_gib": 16.0,  # `ground.cf_scores` names files of whole rows.
    **SCHEDULE,
    **own.keys,
  }
  if chosen:
    keys["cf__learning_rate"] = chosen["learning_rate"]
    keys["cf__weight_decay"] = chosen["weight_decay"]
  clock = product.Clock()
  with product.session(workdir, at.changes(**keys)) as made:
    with clock.time("train"):
      made.make(train_cf.stage(own.model))
    found, prints = {}, product.fingerprints(made)
    with clock.time("rank"):
      for split in cells.SPLITS:
        path = made.paths.cf_scores(own.model, split)
        found[split] = product.ranks(made, split, _ranker(made, path, split))
    entry = storage.read_object(made.paths.metrics / "cf.json")[own.model]
  kept = ("train_rows", "epochs", "best_epoch", "seconds_per_epoch")
  settings = {
    **{key.replace("__", "."): value for key, value in own.keys.items()},
    **chosen,
    **{key: entry[key] for key in kept if key in entry},
  }
  if name.rows == ALL and name.seed in KEPT_SEEDS:
    _keep(workdir / "cf" / own.model, scores(at, name))
  measured = {s: cells.measured(r) for s, r in found.items()}
  rows = {name.system: measured}
  cells.write(at.results, name, rows, settings, prints, clock.seconds)
  shutil.rmtree(workdir / "cf", ignore_errors=True)


def _ranker(made: Any, path: pathlib.Path, split: str) -> Any:
  from bigrec_jax.cf import scores as cf_scores
  from bigrec_jax.rankers import cf as cf_rankers

  return cf_rankers.of_scores(
    cf_scores.load_scores(path, made.examples(split), made.catalogue)
  )


def scores(at: product.Place, name: cells.Name) -> pathlib.Path:
  """Returns the folder of the scores of a cell on all rows."""
  return at.work / "scores" / name.file.removesuffix(".json")


def _keep(source: pathlib.Path, target: pathlib.Path) -> None:
  """Copies valid's and test's scores, whole or not at all."""
  half = target.with_name(f".{target.name}")
  shutil.rmtree(half, ignore_errors=True)
  half.mkdir(parents=True)
  for split in cells.SPLITS:
    for file in source.glob(f"{split}.*"):
      shutil.copy(file, half / file.name)
  shutil.rmtree(target, ignore_errors=True)
  half.rename(target)
