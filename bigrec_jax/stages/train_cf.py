"""Collaborative-filtering baselines: training, scores and their metrics."""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrec_jax import config as config_lib
from bigrec_jax.cf import (
  factors,
  popularity,
  recipes,
  rows as rows_lib,
  scores,
)
from bigrec_jax.data.prepared import examples as examples_lib
from bigrec_jax.results import cf_file, metrics, table
from bigrec_jax.stages import prepare, session
from bigrec_jax.workdir import fingerprints, processes, records, storage

# Whatever trains is imported where it does.
if TYPE_CHECKING:
  from bigrec_jax.cf import (
    fitting,
    item_knn,
    networks,
    trainer as trainer_lib,
  )
  from bigrec_jax.rankers import engine

SPLITS = ("valid", "test")
Source = factors.Factors | Callable[[slice], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Outcome:
  """A trained model.

  Attributes:
    sources: scores of the first seed, by split.
    ranks: one [N] array a seed, by split.
    books: JSON-able facts of the training, for metrics/cf.json.
  """

  sources: dict[str, Source]
  ranks: dict[str, list[np.ndarray]]
  books: dict[str, Any]


def run(config: config_lib.Config, workdir: pathlib.Path) -> None:
  """Trains `cf.model`; writes checkpoints, scores and metrics/cf.json.

  Raises:
    UserError: the data cannot be prepared, the mesh doesn't divide the batch,
      or a loss isn't finite.
  """
  ensure(session.Session(config, workdir))


def ensure(run: session.Session, models: Sequence[str] | None = None) -> None:
  """Trains the models whose scores are missing or of other inputs.

  Args:
    run: configuration and workdir.
    models: names; None = those of `cf.model` and `ground.cf_model`.
  """
  prepare.ensure(run)
  if models is None:
    wanted = (*run.config.cf.models, run.config.ground.cf_model)
    models = [m for m in dict.fromkeys(wanted) if m]
  made = [model for model in models if _ensure_one(run, model)]
  if not made:
    return
  known = storage.read_json(_metrics_path(run))
  session.say(_table(known, run.config, models))


def _num_train(run: session.Session) -> int:
  """Returns how many train rows a model sees; 0 = the LLM's own."""
  return run.config.cf.num_train or run.config.data.num_train


def train_examples(run: session.Session) -> examples_lib.Examples:
  """Returns the train rows, by default those that the LLM is tuned on."""
  if _num_train(run) == run.config.data.num_train:
    return run.examples("train")
  return examples_lib.load_examples(
    run.paths, "train", _num_train(run), run.config.seed
  )


def _metrics_path(run: session.Session) -> pathlib.Path:
  return run.paths.metrics / "cf.json"


def _ensure_one(run: session.Session, model: str) -> bool:
  """Returns whether the model had to be trained."""
  if not run.first_time(f"cf_{model}"):
    return False
  made_from = inputs(run, model)
  record = run.paths.record(f"cf_{model}")
  files = [run.paths.cf_scores(model, split) for split in SPLITS]
  written = processes.agree(lambda: all(scores.exists(f) for f in files))
  if written and records.is_current(record, made_from, _metrics_path(run)):
    session.say(f"train_cf: {files[0].parent} is current")
    return False
  records.drop_and_tell(
    record, made_from, lambda line: session.say(f"train_cf: {model}: {line}")
  )
  started = time.perf_counter()
  outcome = _make(run, model)
  outcome.books["seconds_total"] = round(time.perf_counter() - started, 3)
  limit = run.config.cf.max_dense_gib * 2**30

  def write() -> None:
    for split, file in zip(SPLITS, files, strict=True):
      scores.write_scores(
        file,
        outcome.sources[split],
        run.examples(split),
        run.catalogue,
        made_from,
        limit,
      )
    _write_metrics(run, model, outcome)

  processes.on_first(write)
  records.write_record(record, made_from)
  return True


def inputs(run: session.Session, model: str) -> dict[str, Any]:
  """Returns what a model's scores are made from."""
  options = run.config.to_dict()
  return {
    "cf": recipes.relevant(model, options["cf"]),
    "mask_seen": run.config.cf.mask_seen,
    "cutoffs": run.config.ground.cutoffs,
    "max_history": run.config.data.max_history,
    "catalogue": run.catalogue.fingerprint,
    "examples": {
      "train": train_examples(run).fingerprint,
      **{split: run.examples(split).fingerprint for split in SPLITS},
    },
    "seed": run.config.seed if model in recipes.TRAINED else 0,
  }


def _make(run: session.Session, model: str) -> Outcome:
  from bigrec_jax.rankers import cf as cf_rankers, dense

  ranks_of = {split: _ranks(run, split) for split in SPLITS}
  if model in recipes.TRAINED:
    return _train(run, model, ranks_of)
  if model == "most_pop":
    counts = popularity_counts(run)
    sources = {
      split: popularity.fit(counts, len(run.examples(split)))
      for split in SPLITS
    }
    ranks = {
      s: [ranks_of[s](cf_rankers.Factorised(sources[s]))] for s in SPLITS
    }
    return Outcome(sources, ranks, {"interactions": int(counts.sum())})
  knn = item_neighbours(run)

  def reader(split: str) -> Callable[[slice], np.ndarray]:
    history = run.examples(split).history
    return lambda part: knn.scores(history[part])

  sources = {split: reader(split) for split in SPLITS}
  items = len(run.catalogue)
  ranks = {s: [ranks_of[s](dense.Dense(sources[s], items))] for s in SPLITS}
  return Outcome(sources, ranks, {})


def item_neighbours(run: session.Session) -> "item_knn.ItemKnn":
  """Returns ItemKNN of the train rows."""
  from bigrec_jax.cf import item_knn

  options = run.config.cf
  return item_knn.fit(
    rows_lib.interactions(train_examples(run)),
    len(run.catalogue),
    options.neighbours,
    options.neighbour_decay,
  )


def popularity_counts(run: session.Session) -> np.ndarray:
  """Returns counts of the train part, or of the few-shot sample's rows."""
  if _num_train(run) == -1:
    return run.catalogue.popularity
  pairs = rows_lib.interactions(train_examples(run))
  return np.bincount(pairs[:, 1], minlength=len(run.catalogue))


def _ranks(run: session.Session, split: str) -> "engine.Ranks":
  from bigrec_jax.rankers import engine

  seen = None
  if run.config.cf.mask_seen:
    earlier = {"valid": ("train",), "test": ("train", "valid")}[split]
    seen = rows_lib.seen_items(
      run.examples(split),
      *(examples_lib.load_examples(run.paths, s, -1, 0) for s in earlier),
    )
  return engine.Ranks(
    run.examples(split).target,
    len(run.catalogue),
    run.mesh,
    most_users=run.config.ground.batch_size,
    seen=seen,
  )


def _train(
  run: session.Session,
  model: str,
  ranks_of: "dict[str, engine.Ranks]",
) -> Outcome:
  """Trains every seed and grid point of a network."""
  from bigrec_jax.cf import (
    fitting,
    networks,
    states as cf_states,
    trainer as cf_trainer,
  )
  from bigrec_jax.rankers import cf as cf_rankers

  config = run.config.cf
  length = run.config.data.max_history
  train = train_examples(run)
  recipe = recipes.recipe(model, config, len(run.catalogue), length, run.mesh)
  spec = recipe.network
  rows = (
    rows_lib.chains(train, length)
    if spec.per_position
    else rows_lib.windows(train)
  )
  trainer = cf_trainer.Trainer(
    recipe,
    rows,
    rows_lib.target_counts(train, len(run.catalogue)),
    recipes.runs(config, run.config.seed),
    run.mesh,
  )
  encoders = {
    split: cf_states.Encoder(
      spec, run.examples(split).history, run.mesh, ranks_of[split].block
    )
    for split in SPLITS
  }

  def rank(params: "networks.Params", split: str) -> np.ndarray:
    states = encoders[split](params)
    return ranks_of[split](
      cf_rankers.Headed(states, networks.head(spec, params))
    )

  def score(params: "networks.Params") -> float:
    return metrics.ndcg(rank(params, "valid"), config.stop_cutoff)

  schedule = fitting.Schedule(
    config.num_epochs, config.patience, config.save_every_epochs
  )
  with run.stage(f"train_cf {model}", config.num_epochs, "epochs") as bar:
    fitted = fitting.fit(
      trainer, score, schedule, checkpoint_dir(run, model), bar
    )
  kept = recipes.best_point(fitted.books["best_ndcg"], config.num_seeds)
  params = [fitting.of_run(fitted.params, k) for k in kept]
  sources = {
    split: cf_states.factors(
      encoders[split](params[0]),
      networks.head(spec, params[0]),
      len(run.examples(split)),
      spec.num_items,
    )
    for split in SPLITS
  }
  ranks = {s: [rank(p, s) for p in params] for s in SPLITS}
  return Outcome(sources, ranks, _books(trainer, fitted, kept, len(rows)))


def checkpoint_dir(run: session.Session, model: str) -> pathlib.Path:
  """Returns the folder of exactly this training, whatever its schedule.

  Tables of another size, which few meshes need, are another training.
  """
  made_from = inputs(run, model)
  options = {
    k: v for k, v in made_from["cf"].items() if k not in recipes.SCHEDULE_KEYS
  }
  options["stop_cutoff"] = run.config.cf.stop_cutoff
  made_from = {**made_from, "cf": options, "cutoffs": None}
  rows = recipes.table_rows(len(run.catalogue), run.mesh)
  if rows != recipes.table_rows(len(run.catalogue), None):
    made_from["rows"] = rows
  name = fingerprints.of_value(made_from)
  return run.paths.cf_scores(model, "valid").parent / "checkpoints" / name


def _books(
  trainer: "trainer_lib.Trainer",
  fitted: "fitting.Fitted",
  kept: list[int],
  num_rows: int,
) -> dict[str, Any]:
  """Returns what metrics/cf.json says of a training."""
  curve = fitted.books["curve"]
  warm = [e for e in curve if not e["compiled"]] or curve
  chosen = trainer.runs[kept[0]]
  return {
    "learning_rate": chosen.learning_rate,
    "weight_decay": chosen.weight_decay,
    "seeds": [trainer.runs[k].seed for k in kept],
    "train_rows": num_rows,
    "epochs": len(curve),
    "best_epoch": [fitted.books["best_epoch"][k] for k in kept],
    "seconds_per_epoch": float(np.median([e["seconds"] for e in warm])),
    "eval_seconds": float(np.median([e["eval_seconds"] for e in warm])),
    "curve": [
      {
        "epoch": entry["epoch"],
        "loss": [entry["loss"][k] for k in kept],
        "ndcg": [entry["ndcg"][k] for k in kept],
      }
      for entry in curve
    ],
  }


def _write_metrics(run: session.Session, model: str, outcome: Outcome) -> None:
  """Adds the model to metrics/cf.json; the others' entries stay."""
  cutoffs = run.config.ground.cutoffs
  entry: dict[str, Any] = {"family": run.config.cf.family}
  entry |= {"loss": run.config.cf.loss} if model in recipes.TRAINED else {}
  entry |= outcome.books
  for split in SPLITS:
    each = [metrics.summarise(r, cutoffs) for r in outcome.ranks[split]]
    entry[split] = {"num_examples": len(outcome.ranks[split][0])}
    for name in metrics.METRICS:
      values = {
        str(k): np.array([one[name][str(k)] for one in each]) for k in cutoffs
      }
      entry[split][name] = {k: float(v.mean()) for k, v in values.items()}
      if len(each) > 1:
        entry[split][f"{name}_std"] = {
          k: float(v.std(ddof=1)) for k, v in values.items()
        }
  cf_file.add(_metrics_path(run), model, entry)


def _table(
  known: dict[str, Any], config: config_lib.Config, models: Sequence[str]
) -> str:
  """Returns the test results as a table, a model a row."""
  cutoffs = [str(k) for k in config.ground.cutoffs]
  headers = [
    "test",
    *(f"NDCG@{k}" for k in cutoffs),
    *(f"HR@{k}" for k in cutoffs),
    "epochs",
    "s/epoch",
  ]
  lines = []
  for model in models:
    entry = known[model]
    result = entry["test"]
    seconds = entry.get("seconds_per_epoch")
    lines.append(
      [
        model,
        *(result["ndcg"][k] for k in cutoffs),
        *(result["hr"][k] for k in cutoffs),
        entry.get("epochs"),
        None if seconds is None else f"{seconds:.2f}",
      ]
    )
  return table.format_table(headers, lines)
