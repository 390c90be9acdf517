"""Grounds predictions to the catalogue and measures the ranks."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrec_jax import config as config_lib, errors
from bigrec_jax.cf import scores as cf_scores
from bigrec_jax.data.formats import synthetic
from bigrec_jax.results import chosen, ground_file, rows, table
from bigrec_jax.stages import embed, predictions, session, train_cf
from bigrec_jax.workdir import fingerprints, processes, records, storage

if TYPE_CHECKING:
  from bigrec_jax.rankers import evaluate

SPLITS = ("valid", "test")


def run(config: config_lib.Config, workdir: pathlib.Path) -> None:
  """Writes metrics/ground_eval.json and ranks/*.npz; prints a table.

  Whatever is missing or stale is made first: data, base, adapter, predictions
  and embeddings.
  """
  ensure(session.Session(config, workdir))


def ensure(run: session.Session, *, show: bool = True) -> None:
  """Evaluates, unless the result on disk is of these very inputs.

  Args:
    run: configuration and workdir.
    show: print the table of a result that is current, too.
  """
  items = embed.ensure(run)
  texts = {split: predictions.titles(run, split) for split in SPLITS}
  cf = {split: _cf(run, split) for split in SPLITS}
  popularity = injected_popularity(run)
  made_from = _made_from(run, texts, cf, popularity)
  record = run.paths.record("ground_eval")
  files = [run.paths.ground_eval, run.paths.ranks / "test.npz"]
  if records.is_current(record, made_from, *files):
    session.say(f"ground_eval: {run.paths.ground_eval} is current")
    result = ground_file.read(run.paths.ground_eval)
    _keep_choice(run, result)
    if show:
      _tell(result)
    return
  # Not at the top: a result that is current needs no JAX.
  from bigrec_jax.rankers import evaluate
  from bigrec_jax.stages import grounded_examples

  records.drop_record(record)
  splits = {
    split: evaluate.Split(
      embed.embed_queries(run, texts[split], items, f"embed {split}"),
      run.examples(split).target,
      None if cf[split] is None else cf[split].scores,
      "" if cf[split] is None else str(cf[split].path),
    )
    for split in SPLITS
  }
  found = _evaluate(run, splits, items, popularity)
  result = _result(run, found, made_from)
  examples = grounded_examples.rows(
    run, splits["test"], texts["test"], items, popularity, found
  )

  def write() -> None:
    for split, arrays in found.ranks.items():
      with storage.atomic_path(run.paths.ranks / f"{split}.npz") as temporary:
        with open(temporary, "wb") as file:
          np.savez_compressed(file, **arrays)
    if examples:
      storage.write_json(run.paths.ground_examples, examples)
    storage.write_json(run.paths.ground_eval, result.to_json())

  processes.on_first(write)
  records.write_record(record, made_from)
  _keep_choice(run, result)
  _tell(result)


def best_on_valid(
  run: session.Session,
  found: ground_file.GroundFile,
  tell: Callable[[str], object] = lambda line: None,
) -> chosen.Chosen:
  """Returns the injection that valid likes best, of those for new histories.

  Args:
    run: configuration and workdir.
    found: the evaluation.
    tell: told of injections that new histories can't have.
  """
  ground = run.config.ground
  given = ground.cf_scores.valid or ground.cf_scores.test
  known = dict.fromkeys(one.injection for one in chosen.candidates(found))
  without = [n for n in known if "cf" in n and (given or not ground.cf_model)]
  for name in without:
    tell(f"recommend: {name} is left out: it knows no new histories")
  return chosen.best(found, ground.cf_model, lambda name: name not in without)


def _keep_choice(run: session.Session, found: ground_file.GroundFile) -> None:
  """Writes chosen.json: what valid likes best, and of which artefacts."""

  def write() -> None:
    made_from = found.fingerprints
    prints = {
      key: made_from[key] for key in ("base", "catalogue", "predictions")
    }
    # Predictions that are given are of nobody knows which adapter.
    record = run.paths.record("predictions_valid")
    if not run.config.ground.predictions.valid and record.exists():
      prints["adapter"] = storage.read_json(record)["adapter"]
    best = best_on_valid(run, found)
    chosen.write(run.paths.chosen, best, found.chosen_by, prints)

  processes.on_first(write)


def _evaluate(
  run: session.Session,
  splits: "dict[str, evaluate.Split]",
  items: np.ndarray,
  popularity: np.ndarray,
) -> "evaluate.Evaluation":
  from bigrec_jax.rankers import evaluate

  total = sum(len(split.targets) for split in splits.values())
  with run.stage("ground", total, "users") as progress:
    return evaluate.evaluate(
      splits,
      items,
      run.catalogue.groups,
      popularity,
      run.config.ground,
      run.mesh,
      seed=run.config.seed,
      progress=progress,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Cf:
  """CF scores of a split and what names them."""

  path: pathlib.Path
  scores: Any
  fingerprint: str


def _cf(run: session.Session, split: str) -> _Cf | None:
  """Returns the CF scores to inject, or None; a CF model is trained first."""
  ground = run.config.ground
  given = ground.cf_scores.get(split)
  if not given and not ground.cf_model:
    return None
  if given:
    path = pathlib.Path(given)
  else:
    train_cf.ensure(run, [ground.cf_model])
    path = run.paths.cf_scores(ground.cf_model, split)
  found = cf_scores.load_scores(path, run.examples(split), run.catalogue)
  name = fingerprints.of_folder(path.parent, f"{path.stem}*")
  return _Cf(path, found, name)


def injected_popularity(run: session.Session) -> np.ndarray:
  """Returns [I] counts: of the train split, or of `ground.popularity`."""
  path = run.config.ground.popularity
  if not path:
    return run.catalogue.popularity
  counts = storage.read_json(path)
  if not isinstance(counts, dict):
    raise errors.UserError(
      f"{path}: {type(counts).__name__} found, an object of external item id ->"
      " count expected"
    )
  result = np.zeros(len(run.catalogue), np.float64)
  known = 0
  for row, external_id in enumerate(run.catalogue.external_ids):
    count = counts.get(external_id, 0)
    known += external_id in counts
    if isinstance(count, bool) or not isinstance(count, (int, float)):
      raise errors.UserError(
        f"{path}: {external_id}: {count!r} found, a number expected"
      )
    result[row] = count
  if not known:
    raise errors.UserError(
      f"{path}: none of its {len(counts)} ids is in the catalogue, external"
      f" ids such as {run.catalogue.external_ids[0]!r} expected"
    )
  return result


def _made_from(
  run: session.Session,
  texts: dict[str, list[str]],
  cf: dict[str, _Cf | None],
  popularity: np.ndarray,
) -> dict[str, Any]:
  options = run.config.to_dict()
  ground = options["ground"]
  shown = ("cutoffs", "duplicates", "gamma_grid", "injections", "protocols")
  return {
    "base": run.base_fingerprint,
    "catalogue": run.catalogue.fingerprint,
    "examples": {s: run.examples(s).fingerprint for s in SPLITS},
    "predictions": {s: fingerprints.of_value(texts[s]) for s in SPLITS},
    "cf": {s: cf[s].fingerprint if cf[s] else "" for s in SPLITS},
    "popularity": fingerprints.of_value(popularity.tolist()),
    "ground": {key: ground[key] for key in shown}
    | {
      "protocol_quirks": ground["protocol_quirks"],
      "bootstrap_samples": ground["bootstrap_samples"],
    },
    "bm25": options["bm25"],
    "seed": run.config.seed,
  }


def _result(
  run: session.Session, found: "evaluate.Evaluation", made_from: dict[str, Any]
) -> ground_file.GroundFile:
  """Returns the content of metrics/ground_eval.json."""
  bm25, chosen = _bm25(run)
  return ground_file.GroundFile(
    len(run.catalogue),
    {split: len(run.examples(split)) for split in SPLITS},
    made_from,
    found.results,
    [*found.baselines, *bm25, *_oracle(run)],
    found.gamma_curves,
    found.gamma_pairs,
    chosen,
  )


def _bm25(
  run: session.Session,
) -> tuple[list[rows.BaselineRow], dict[str, Any]]:
  """Returns the rows of BM25 of history titles, and its parameters."""
  from bigrec_jax.rankers import bm25_choice, evaluate

  config = run.config
  choice, ranks = bm25_choice.history_ranks(
    run.catalogue.titles,
    run.catalogue.groups,
    {s: (run.examples(s).history, run.examples(s).target) for s in SPLITS},
    config.bm25,
    run.mesh,
    most_users=config.ground.batch_size,
    duplicates=config.ground.duplicates,
  )
  found = [
    evaluate.report_row(
      ranks[s], config.ground, config.seed, name="bm25", split=s
    )
    for s in SPLITS
  ]
  return found, choice.to_dict()


def _oracle(run: session.Session) -> list[rows.BaselineRow]:
  """Returns what the world's own law reaches; only a made-up world has one."""
  if run.config.data.format != "synthetic":
    return []
  from bigrec_jax.rankers import dense, engine, evaluate

  world = synthetic.build(run.config.data.synthetic)
  config, found = run.config, []
  for split in SPLITS:
    examples = run.examples(split)
    ranks_of = engine.Ranks(
      examples.target,
      len(run.catalogue),
      run.mesh,
      most_users=config.ground.batch_size,
      groups=run.catalogue.groups,
    )
    for name, users in (("oracle", examples.user), ("oracle_mean_taste", None)):

      def law(part: slice, examples=examples, users=users) -> np.ndarray:
        known = None if users is None else users[part]
        return world.next_item_probabilities(examples.history[part], known)

      ranks = ranks_of(dense.Dense(law, len(run.catalogue)))
      found.append(
        evaluate.report_row(
          ranks, config.ground, config.seed, name=name, split=split
        )
      )
  return found


def _tell(result: ground_file.GroundFile) -> None:
  """Prints the table and, in a made-up world, how far the oracle is."""
  session.say(_table(result))
  found: dict[str, rows.BaselineRow | rows.MetricRow] = {
    row.name: row for row in result.baselines_of("test")
  }
  plain = next(result.rows_of(split="test", injection="none"), None)
  if "oracle" not in found or plain is None:
    return
  found["BIGRec"] = plain
  for k in ("1", "10"):
    best = found["oracle"].hr.get(k)
    if best:
      shares = (
        f"{name} {found[name].hr[k] / best:.0%}"
        for name in ("BIGRec", "most_pop", "random")
      )
      session.say(f"HR@{k} of the oracle's {best:.4f}: {', '.join(shares)}")


def _table(result: ground_file.GroundFile) -> str:
  """Returns the test rows as a table for people."""
  others = list(result.baselines_of("test"))
  oracles = [row for row in others if row.name.startswith("oracle")]
  found = [(row.name, "", row) for row in others if row not in oracles]
  plain = next(result.rows_of(split="test", injection="none"), None)
  if plain is not None:  # Without gamma all protocols are one.
    found.append(("BIGRec", "", plain))
  for row in result.rows_of(split="test"):
    if row.injection != "none":
      name = f"BIGRec + {row.injection}"
      found.append((name, row.protocol, row))
  found += [(row.name, "", row) for row in oracles]
  cutoffs = list(result.results[0].hr)
  headers = ["test", "gamma by"]
  headers += [f"NDCG@{k}" for k in cutoffs] + [f"HR@{k}" for k in cutoffs]
  cells = [
    [name, protocol]
    + [row.ndcg[k] for k in cutoffs]
    + [row.hr[k] for k in cutoffs]
    for name, protocol, row in found
  ]
  return table.format_table(headers, cells)
