"""Collaborative-filtering baselines: training, scores and their metrics."""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrec_jax import config as config_lib
from bigrec_jax.cf import (
  popularity,
  recipes,
  rows as rows_lib,
  scores,
)
from bigrec_jax.data.prepared import examples as examples_lib
from bigrec_jax.recommend import cf_scorer
from bigrec_jax.results import cf_file, metrics, significance
from bigrec_jax.stages import graph, prepare
from bigrec_jax.stages.session import Asked, Session, say
from bigrec_jax.workdir import contents, processes, seals, storage

# Whatever trains is imported where it does.
if TYPE_CHECKING:
  from bigrec_jax.cf import fitting, networks, trainer as trainer_lib
  from bigrec_jax.rankers import engine

SPLITS = ("valid", "test")


@dataclasses.dataclass(frozen=True)
class Outcome:
  """A trained model.

  Attributes:
    sources: scores of the first seed, by split.
    ranks: one [N] array a seed, by split.
    books: JSON-able facts of the training, for metrics/cf.json.
  """

  sources: Mapping[str, scores.Source]
  ranks: dict[str, list[np.ndarray]]
  books: dict[str, Any]


def run(
  config: config_lib.Config, workdir: pathlib.Path, asked: Asked | None = None
) -> None:
  """Trains `cf.model`; writes checkpoints, scores and metrics/cf.json.

  Raises:
    UserError: the data cannot be prepared, the mesh doesn't divide the batch,
      or a loss isn't finite.
  """
  session = Session(config, workdir, asked)
  stages = [_with_weights(session, model) for model in models(config)]
  tell(session, session.make(*stages))


def _with_weights(session: Session, model: str) -> graph.Stage:
  """Returns a model's stage for the mode that trains it.

  Scores may be all that is left of a model where they are used; this mode also
  sees to it that new histories can be scored.
  """
  own = stage(model)
  folder = session.paths.cf_scores(model, "valid").parent
  if model not in recipes.TRAINED or not processes.agree(
    lambda: scores_are_all(folder)
  ):
    return own
  say(f"train_cf: again, because of {folder}: no checkpoint of it is whole")
  return dataclasses.replace(own, is_there=lambda session: False)


def scores_are_all(folder: pathlib.Path) -> bool:
  """Returns whether a model that was trained has no checkpoint to be read."""
  if not folder.is_dir():
    return False
  trainings = [
    path
    for path in (folder / "checkpoints").glob("*")
    if not path.name.endswith(".unreadable")
  ]
  last = max(trainings, key=lambda path: path.stat().st_mtime, default=None)
  return last is None or not seals.has_whole(last)


def models(config: config_lib.Config) -> list[str]:
  """Returns the models of `cf.model` and `ground.cf_model`, each once."""
  wanted = (*config.cf.models, *config.ground.cf_models)
  return [model for model in dict.fromkeys(wanted) if model]


def tell(session: Session, built: set[str]) -> None:
  """Prints the results of the models if any of their stages was made."""
  wanted = models(session.config)
  if not built.isdisjoint(stage(name).name for name in wanted):
    known = storage.read_json_if_whole(_metrics_path(session)) or {}
    shown = [m for m in wanted if m in known]
    say(cf_file.table(known, session.config.ground.cutoffs, shown))


@functools.cache
def stage(model: str) -> graph.Stage:
  """Returns the stage of a model's scores of valid and test."""

  def files(session: Session) -> list[pathlib.Path]:
    return [session.paths.cf_scores(model, split) for split in SPLITS]

  def cost(session: Session) -> graph.Cost:
    epochs, early = session.config.cf.num_epochs, session.config.cf.patience > 0
    return graph.Cost(epochs, "epochs", f"train_cf {model}", at_most=early)

  trained = model in recipes.TRAINED

  return graph.Stage(
    name=f"cf_{model}",
    mode="train_cf",
    where=lambda session: files(session)[0].parent,
    needs=lambda session: (prepare.STAGE,),
    inputs=lambda session: inputs(session, model),
    is_there=lambda session: (
      _metrics_path(session).exists()
      and all(scores.exists(file) for file in files(session))
    ),
    files=lambda session: [f"cf/{model}/{split}.*" for split in SPLITS],
    shares=lambda session: _shared(session, model),
    sound=lambda session: _sound(session, model),
    build=lambda session, made_from: _build(session, model, made_from),
    check=prepare.check_train_rows,
    batches=("cf.batch_size",) if trained else (),
    cost=cost if trained else lambda session: None,
  )


def _shared(session: Session, model: str) -> dict[str, Any]:
  """Returns the model's entry in the file that all models share."""
  path = _metrics_path(session)
  name = path.relative_to(session.paths.root).as_posix()
  return {f"{name}: {model}": contents.read_shared(path, model)}


def _sound(session: Session, model: str) -> None:
  """Raises UserError where the scores aren't those of valid and test."""
  for split in SPLITS:
    scores.load_scores(
      session.paths.cf_scores(model, split),
      session.examples(split),
      session.catalogue,
    )


def _metrics_path(session: Session) -> pathlib.Path:
  return session.paths.metrics / "cf.json"


def _build(session: Session, model: str, made_from: graph.Inputs) -> None:
  started = time.perf_counter()
  outcome = _make(session, model, made_from)
  outcome.books["seconds_total"] = round(time.perf_counter() - started, 3)
  limit = session.config.cf.max_dense_gib * 2**30

  def write() -> None:
    for split in SPLITS:
      scores.write_scores(
        session.paths.cf_scores(model, split),
        outcome.sources[split],
        session.examples(split),
        session.catalogue,
        made_from,
        limit,
      )
    _write_metrics(session, model, outcome)

  processes.on_first(write)


def inputs(session: Session, model: str) -> dict[str, Any]:
  """Returns what a model's scores are made from."""
  options = session.config.to_dict()
  return {
    "cf": recipes.relevant(model, options["cf"]),
    "mask_seen": session.config.cf.mask_seen,
    "cutoffs": session.config.ground.cutoffs,
    "max_history": session.config.data.max_history,
    "catalogue": session.catalogue.fingerprint,
    "examples": {
      "train": cf_scorer.train_examples(session).fingerprint,
      **{split: session.examples(split).fingerprint for split in SPLITS},
    },
    "seed": session.config.seed if model in recipes.TRAINED else 0,
  }


def _make(session: Session, model: str, made_from: graph.Inputs) -> Outcome:
  from bigrec_jax.rankers import cf as cf_rankers

  ranks_of = {split: _ranks(session, split) for split in SPLITS}
  if model in recipes.TRAINED:
    return _train(session, model, made_from, ranks_of)
  if model == "most_pop":
    counts = cf_scorer.popularity_counts(session)
    sources = {
      split: popularity.fit(counts, len(session.examples(split)))
      for split in SPLITS
    }
    ranks = {
      s: [ranks_of[s](cf_rankers.Factorised(sources[s]))] for s in SPLITS
    }
    return Outcome(sources, ranks, {"interactions": int(counts.sum())})
  knn = cf_scorer.item_neighbours(session, session.config.cf)

  found = {s: knn.sparse(session.examples(s).history) for s in SPLITS}
  ranks = {s: [ranks_of[s](cf_rankers.of_scores(found[s]))] for s in SPLITS}
  return Outcome(found, ranks, {})


def _ranks(session: Session, split: str) -> "engine.Ranks":
  from bigrec_jax.rankers import engine

  seen = None
  if session.config.cf.mask_seen:
    earlier = {"valid": ("train",), "test": ("train", "valid")}[split]
    seen = rows_lib.seen_items(
      session.examples(split),
      *(examples_lib.load_examples(session.paths, s, -1, 0) for s in earlier),
    )
  return engine.Ranks(
    session.examples(split).target,
    len(session.catalogue),
    session.mesh,
    most_users=session.config.ground.batch_size,
    seen=seen,
  )


def _train(
  session: Session,
  model: str,
  made_from: graph.Inputs,
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

  config = session.config.cf
  length = session.config.data.max_history
  train = cf_scorer.train_examples(session)
  recipe = recipes.recipe(
    model, config, len(session.catalogue), length, session.mesh
  )
  spec = recipe.network
  rows = (
    rows_lib.chains(train, length)
    if spec.per_position
    else rows_lib.windows(train)
  )
  trainer = cf_trainer.CfTrainer(
    recipe,
    rows,
    rows_lib.target_counts(train, len(session.catalogue)),
    recipes.runs(config, session.config.seed),
    session.mesh,
  )
  encoders = {
    split: cf_states.Encoder(
      spec, session.examples(split).history, session.mesh, ranks_of[split].block
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
  with session.stage(f"train_cf {model}", config.num_epochs, "epochs") as bar:
    directory = cf_scorer.checkpoint_dir(session, model, made_from)
    fitted = fitting.fit(trainer, score, schedule, directory, bar)
  kept = recipes.best_point(fitted.books["best_ndcg"], config.num_seeds)
  params = [fitting.of_run(fitted.params, k) for k in kept]
  sources = {
    split: cf_states.factors(
      encoders[split](params[0]),
      networks.head(spec, params[0]),
      len(session.examples(split)),
      spec.num_items,
    )
    for split in SPLITS
  }
  ranks = {s: [rank(p, s) for p in params] for s in SPLITS}
  return Outcome(sources, ranks, _books(trainer, fitted, kept, len(rows)))


def _books(
  trainer: "trainer_lib.CfTrainer",
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


def _write_metrics(session: Session, model: str, outcome: Outcome) -> None:
  """Adds the model to metrics/cf.json; the others' entries stay."""
  cutoffs = session.config.ground.cutoffs
  entry: dict[str, Any] = {"family": session.config.cf.family}
  entry |= {"loss": session.config.cf.loss} if model in recipes.TRAINED else {}
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
    ground, seed = session.config.ground, session.config.seed
    effort = significance.Effort(
      ground.bootstrap_samples, ground.permutations, seed
    )
    entry[split]["ci95"] = significance.intervals_of_seeds(
      np.stack(outcome.ranks[split]), cutoffs, effort, session.users(split)
    )
  cf_file.add(_metrics_path(session), model, entry)
