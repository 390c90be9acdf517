"""Grounds predictions to the catalogue and measures the ranks."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from bigrec_jax import config as config_lib, errors
from bigrec_jax.data.formats import raw_files
from bigrec_jax.results import (
  ground_file,
  ground_table,
  paired_tests,
  significance,
)
from bigrec_jax.stages import (
  confidence,
  embed,
  generate,
  graph,
  history_titles,
  injected,
  kept_choice,
  oracle,
  predictions,
  systems,
  train_cf,
)
from bigrec_jax.stages.session import Asked, Session, say
from bigrec_jax.workdir import (
  fingerprints,
  origins,
  parts as parts_lib,
  processes,
  storage,
)

if TYPE_CHECKING:
  from bigrec_jax.rankers import evaluate

SPLITS = ("valid", "test")


def run(
  config: config_lib.Config, workdir: pathlib.Path, asked: Asked | None = None
) -> None:
  """Writes metrics/ground_eval.json and ranks/*.npz; prints a table.

  Whatever is missing or stale is made first: data, base, adapter, predictions
  and embeddings. Where `ground.item_fairness` asks for it,
  metrics/item_fairness.json comes after.
  """
  from bigrec_jax.stages import item_fairness  # Which imports this module.

  session = Session(config, workdir, asked)
  ends = {STAGE: finish}
  if item_fairness.is_asked_for(session):
    ends[item_fairness.STAGE] = item_fairness.finish
  built = session.make(*ends)
  train_cf.tell(session, built)
  if not session.asked.dry_run:
    for end in ends.values():
      end(session)


def needed(session: Session) -> Iterator[graph.Stage]:
  """Yields embeddings, the predictions and CF scores that aren't given."""
  ground = session.config.ground
  yield embed.STAGE
  for split in SPLITS:
    if not ground.predictions.get(split):
      yield generate.stage(split)
  given = all(ground.cf_scores.get(split) for split in SPLITS)
  for model in () if given else ground.cf_models:
    yield train_cf.stage(model)
  yield from systems.needed(session)


def _reads_base(session: Session) -> bool:
  """Returns whether anything here is made by the base."""
  ground = session.config.ground
  given = ground.predictions.valid and ground.predictions.test
  return bool(ground.likelihood) or not (session.has_own_encoder and given)


def _check(session: Session) -> None:
  ground = session.config.ground
  for section in ("predictions", "cf_scores"):
    for split in SPLITS:
      if given := getattr(ground, section).get(split):
        raw_files.given(f"ground.{section}.{split}", given)
  if ground.popularity:
    raw_files.given("ground.popularity", ground.popularity)
  systems.check(session)


def _inputs(session: Session) -> graph.Inputs:
  options = session.config.to_dict()
  ground = options["ground"]
  shown = ["cutoffs", "duplicates", "gamma_grid", "injections", "protocols"]
  shown += ["protocol_quirks", "bootstrap_samples"]
  texts = {split: predictions.titles(session, split) for split in SPLITS}
  cf = {split: injected.cf_of(session, split) for split in SPLITS}
  popularity = injected.popularity(session)
  return {
    "base": session.base_fingerprint if _reads_base(session) else "",
    **session.encoder_inputs,
    "catalogue": session.catalogue.fingerprint,
    "examples": {s: session.examples(s).fingerprint for s in SPLITS},
    "predictions": {s: fingerprints.of_value(texts[s]) for s in SPLITS},
    "cf": {s: cf[s].fingerprint for s in SPLITS},
    **_other_models(session),
    "popularity": fingerprints.of_value(popularity.tolist()),
    "ground": {
      **{key: ground[key] for key in shown},
      **systems.asked_for(session),
      **_tests_asked_for(ground["permutations"]),
    },
    "bm25": options["bm25"],
    **systems.inputs(session),
    "seed": session.config.seed,
    **session.owners_of(SPLITS),
  }


def _other_models(session: Session) -> dict[str, Any]:
  """Returns what names the scores of CF models that are fused, not injected."""
  found = {
    model: {s: injected.cf_of(session, s, model).fingerprint for s in SPLITS}
    for model in session.config.ground.cf_models[1:]
  }
  return {"other_cf": found} if found else {}


def _tests_asked_for(permutations: int) -> dict[str, int]:
  """Returns the draws of tests where they are not the usual ones.

  A result of before there were tests stays current without.
  """
  return {} if permutations == 100_000 else {"permutations": permutations}


def _cost(session: Session) -> graph.Cost | None:
  counts = [session.num_examples(split) for split in SPLITS]
  known = [count for count in counts if count is not None]
  whole = len(known) == len(SPLITS)
  return graph.Cost(sum(known), "users", "ground") if whole else None


def _build(session: Session, made_from: graph.Inputs) -> ground_file.GroundFile:
  """Ranks and measures.

  A kill costs what was finished in the last seconds (workdir/parts.py), and
  what was under way: a batch of queries, a block of users, the ranks of one
  row of the table, or a setting of BM25 or of its sum with CF.
  """
  # Not at the top: a result that is current needs no JAX.
  from bigrec_jax.stages import grounded_examples

  items = session.load(embed.STAGE)
  texts = {split: predictions.titles(session, split) for split in SPLITS}
  cf = {split: injected.cf_of(session, split) for split in SPLITS}
  popularity = injected.popularity(session)
  with session.parts(STAGE.name, made_from) as parts:
    splits = _splits(session, texts, items, cf, parts)
    found = _evaluate(session, splits, items, popularity, parts.once)
    plain = {split: found.ranks[split]["none"] for split in SPLITS}
    words = history_titles.choose(session, parts.once)
    others = {
      model: {s: injected.cf_of(session, s, model).scores for s in SPLITS}
      for model in session.config.ground.cf_models[1:]
    }
    beside = systems.measure(
      session, splits, items, popularity, parts, plain, words, others
    )
    scores = {split: cf[split].scores for split in SPLITS}
    bm25 = history_titles.rows(session, words, scores, parts.once)
    law = oracle.rows(session, parts.once)
    for other in (bm25, law, beside):
      for split, ranks in other.ranks.items():
        found.ranks[split].update(ranks)
    for split in SPLITS:
      owners = session.examples(split).owners
      _, numbers = np.unique(owners, return_inverse=True)
      found.ranks[split][paired_tests.OWNERS] = numbers.astype(np.int32)
    sure = confidence.measure(
      session, splits, texts, items, found.ranks, beside.fitted, parts.once
    )
    parameters = words.choice.to_json()
    result = _result(session, found, [bm25, law, beside], parameters, made_from)
    result = dataclasses.replace(result, confidence=sure)
  examples = grounded_examples.rows(
    session, splits["test"], texts["test"], items, popularity, found
  )

  def write() -> None:
    for split, arrays in found.ranks.items():
      path = session.paths.ranks / f"{split}.npz"
      with storage.atomic_path(path) as temporary:
        with open(temporary, "wb") as file:
          # numpy's stubs take any name for its own keyword allow_pickle.
          np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    _keep_examples(session, examples)
    storage.write_json(session.paths.ground_eval, result.to_json())

  processes.on_first(write)
  kept_choice.keep(session, result)
  return result


def _splits(
  session: Session,
  texts: Mapping[str, list[str]],
  items: np.ndarray,
  cf: Mapping[str, injected.Cf],
  parts: parts_lib.Parts,
) -> "dict[str, evaluate.Split]":
  """Returns what is ranked; predicted titles go through the encoder."""
  from bigrec_jax.rankers import evaluate

  found = {}
  for split in SPLITS:
    try:
      queries = embed.embed_queries(
        session, texts[split], items, f"embed {split}", parts
      )
    except errors.NonFiniteError as error:
      name = f"predictions of {split}, row {error.row}"
      raise error.of(error.row, name) from None
    found[split] = evaluate.Split(
      queries,
      session.examples(split).target,
      cf[split].scores,
      cf[split].name,
      session.users(split),
    )
  return found


def _keep_examples(session: Session, examples: list[dict[str, Any]]) -> None:
  """Writes what only the report shows; ranks are whole without it."""
  path = session.paths.ground_examples
  try:
    if examples:
      storage.write_json(path, examples)
    else:
      path.unlink(missing_ok=True)
  except OSError as error:
    logging.warning("ground_eval: examples are not kept: %s", error)


def _evaluate(
  session: Session,
  splits: "dict[str, evaluate.Split]",
  items: np.ndarray,
  popularity: np.ndarray,
  once: parts_lib.Once,
) -> "evaluate.Evaluation":
  from bigrec_jax.rankers import evaluate

  ground, known = session.config.ground, bool(np.ptp(popularity))
  if not known:
    why = "there are no train rows to count it in, and config.ground.popularity"
    why = f"{why} is empty"
    if popularity.any():
      why = f"all {len(popularity):,} items have {popularity[0]:g}"
    say(f"ground_eval: popularity is left out: {why}")
    kept = tuple(n for n in ground.injections if "popularity" not in n)
    ground = dataclasses.replace(ground, injections=kept)
  total = sum(len(split.targets) for split in splits.values())
  with session.stage("ground", total, "users") as progress:
    found = evaluate.evaluate(
      splits,
      items,
      session.catalogue.groups,
      popularity,
      ground,
      session.mesh,
      seed=session.config.seed,
      progress=progress,
      once=once,
    )
  own = [row for row in found.baselines if known or row.name != "most_pop"]
  return dataclasses.replace(found, baselines=own)


def _result(
  session: Session,
  found: "evaluate.Evaluation",
  others: Sequence[systems.Measured],
  bm25: Mapping[str, Any],
  made_from: graph.Inputs,
) -> ground_file.GroundFile:
  """Returns the content of metrics/ground_eval.json.

  Args:
    session: configuration and workdir.
    found: the published rows and their baselines, with everybody's ranks.
    others: baselines of words, those of a made-up world's law, and systems.
    bm25: the parameters of the first.
    made_from: what it all depends on.
  """
  words, law, beside = others
  result = ground_file.GroundFile(
    len(session.catalogue),
    {split: len(session.examples(split)) for split in SPLITS},
    made_from,
    found.results,
    [*found.baselines, *words.rows, *law.rows],
    found.gamma_curves,
    found.gamma_pairs,
    bm25,
    beside.rows,
    words.fitted | beside.fitted,
    base_origin=(_reads_base(session) and session.base_origin) or {},
    num_users={
      split: number
      for split in SPLITS
      if (number := session.examples(split).num_users) is not None
    },
  )
  ground = session.config.ground
  effort = significance.Effort(
    ground.bootstrap_samples, ground.permutations, session.config.seed
  )
  tests = paired_tests.tests(result, found.ranks["test"], effort)
  return dataclasses.replace(result, tests=tests)


def finish(session: Session) -> None:
  """Keeps what valid likes best; prints what a current stage holds.

  That is a table and, in a made-up world, how far the oracle is.
  """
  result = session.load(STAGE)
  kept_choice.keep(session, result)
  say(ground_table.of_rows(result))
  if result.base_origin:
    line = origins.describe(result.base_origin)
    say(f"BIGRec's base is a dequantised copy of {line}")
  if tests := ground_table.of_tests(result):
    say(tests)
  else:
    say(f"ground_eval: no paired tests: {paired_tests.why_none(result)}")
  best = kept_choice.best_on_valid(session, result)
  for line in confidence.told(result, best.ranks):
    say(line)
  for line in ground_table.of_oracle(result):
    say(line)


# Its value: the content of metrics/ground_eval.json.
STAGE = graph.Stage(
  name="ground_eval",
  mode="ground_eval",
  where=lambda session: session.paths.ground_eval,
  needs=needed,
  inputs=_inputs,
  is_there=lambda session: (
    session.paths.ground_eval.exists()
    and (session.paths.ranks / "test.npz").exists()
  ),
  files=lambda session: ("metrics/ground_eval.json", "ranks/*"),
  build=_build,
  load=lambda session: ground_file.read(session.paths.ground_eval),
  check=_check,
  batches=(),
  cost=_cost,
)
