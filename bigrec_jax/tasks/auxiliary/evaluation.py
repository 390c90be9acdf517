"""Rows of the three recommendation tasks, and of what was mixed.

  retrieval  HR and NDCG of the beams, lists over the whole catalogue
  ranking    HR and NDCG of the target among the candidates, by likelihood
  rating     RMSE and MAE, of the likeliest rating and of the expected one

Beside each stands what needs no language model, on the same rows and
candidates: popularity, a CF model where it has scores, the mean rating.

Letters: N rows, C candidates, L ratings.
"""

import functools

import numpy as np

from bigrec_jax.cf import scores as cf_scores
from bigrec_jax.config import WeightsConfig
from bigrec_jax.data.prepared.examples import Examples
from bigrec_jax.results import clusters, metrics
from bigrec_jax.results.rows import TaskRow
from bigrec_jax.tasks import cf_files, item_lists, protocol
from bigrec_jax.tasks.auxiliary import samples as samples_lib, scoring
from bigrec_jax.tasks.auxiliary.mixture import Mixture
from bigrec_jax.workdir import parts

SYSTEM, EXPECTED = "cao", "cao, expected"
MIXTURE, TRAIN = "mixture", "train"


def mixture(
  store: protocol.Store, found: Mixture, weights: WeightsConfig
) -> TaskRow:
  """Returns the row that says what training read: weights and counts."""
  counts, values = found.counts(), {}
  for kind, weight in weights.by_kind.items():
    values[f"{kind} weight"] = weight
    values[f"{kind} samples"] = float(counts.get(kind, 0))
  return TaskRow(TRAIN, MIXTURE, values, {}, len(found), [store.config.seed])


def retrieval(
  store: protocol.Store,
  samples: samples_lib.Samples,
  evidence: protocol.Evidence,
) -> list[TaskRow]:
  """Returns the rows of beams and of others' lists, of one split."""
  ground, generate = store.config.ground, store.config.generate
  split = samples.examples.split
  beams = item_lists.of_beams(
    evidence.predictions(split),
    samples.wording.item_of,
    max(*ground.cutoffs, generate.num_beams),
  )
  written = float((beams[:, : generate.num_beams] >= 0).mean())
  found = [
    item_lists.row(
      store, split, f"retrieval: {SYSTEM}", beams, {"items": written}
    )
  ]
  for name, lists in item_lists.of_others(store, split):
    found.append(item_lists.row(store, split, f"retrieval: {name}", lists))
  return found


def ranking(
  store: protocol.Store,
  samples: samples_lib.Samples,
  questions: Mixture,
  evidence: protocol.Evidence,
) -> list[TaskRow]:
  """Returns the rows of rankings of candidates, of one split."""
  examples, catalogue = samples.examples, store.catalogue
  split, generate = examples.split, store.config.generate
  candidates = np.stack([samples.candidates(n) for n in range(len(examples))])
  answers = samples.wording.answers
  place = np.array(
    [answers[samples.wording.answer(n)] for n in range(len(catalogue))]
  )
  kept = parts.Vectors(evidence.parts, f"ranking {split}", *candidates.shape)
  with evidence.progress(f"rank {split}", len(examples), "users") as bar:
    logs, lengths = scoring.log_probabilities(
      evidence.tuned(),
      questions,
      list(answers),
      place[candidates],
      store.prompt,
      generate,
      bar,
      kept,
    )
  penalty = generate.length_penalty
  own = scoring.normed(logs, lengths[place[candidates]], penalty)
  scores = {SYSTEM: own, "most_pop": catalogue.popularity[candidates]}
  files = cf_files.find(store)
  if split in files:
    table = cf_scores.load_scores(files[split], examples, catalogue)
    name = store.config.ground.injected_cf or "cf"
    scores[name] = _of_table(table, candidates, store.config.ground.batch_size)
  found = []
  for name, values in scores.items():
    ranks = target_ranks(values, candidates, examples.target)
    found.append(item_lists.of_ranks(store, split, f"ranking: {name}", ranks))
  return found


def target_ranks(
  scores: np.ndarray, candidates: np.ndarray, targets: np.ndarray
) -> np.ndarray:
  """Returns how many candidates come before the target, [N] int64.

  Of equal scores the one that is listed first comes first, and the order of
  the list is drawn at random.

  Args:
    scores: [N, C].
    candidates: [N, C] catalogue rows, one of each row the target.
    targets: [N].
  """
  is_target = candidates == targets[:, None]
  column = is_target.argmax(axis=1)[:, None]  # [N, 1]
  own = np.take_along_axis(scores, column, axis=1)
  earlier = np.arange(scores.shape[1])[None, :] < column
  return ((scores > own) | ((scores == own) & earlier)).sum(axis=1)


def _of_table(
  table: "cf_scores.Scores",
  candidates: np.ndarray,
  block: int,
) -> np.ndarray:
  """Returns the scores [N, C] of candidates, rows of a table at a time."""
  blocks = []
  for start in range(0, len(candidates), block):
    rows = np.arange(start, min(start + block, len(candidates)))
    own = candidates[rows]
    blocks.append(np.take_along_axis(np.asarray(table[rows]), own, axis=1))
  return np.concatenate(blocks)


def rating(
  store: protocol.Store,
  samples: samples_lib.Samples,
  questions: Mixture,
  train: Examples,
  evidence: protocol.Evidence,
) -> list[TaskRow]:
  """Returns the rows of ratings, of one split; none where it has no rating."""
  examples = samples.examples
  (part,) = questions.parts
  if not len(part) or examples.rating is None:
    return []
  split, truth = examples.split, examples.rating[part.rows].astype(np.float64)
  owners = examples.owners[part.rows]
  levels = samples_lib.levels_of(train)
  answers = [samples.rating_answer(level) for level in levels]
  shape = len(part), len(levels)
  kept = parts.Vectors(evidence.parts, f"rating {split}", *shape)
  with evidence.progress(f"rate {split}", len(part), "ratings") as bar:
    logs, _ = scoring.log_probabilities(
      evidence.tuned(),
      questions,
      answers,
      np.broadcast_to(np.arange(len(levels)), shape),
      store.prompt,
      store.config.generate,
      bar,
      kept,
    )
  logs = logs.astype(np.float64)
  chances = np.exp(logs - logs.max(axis=1, keepdims=True))
  chances /= chances.sum(axis=1, keepdims=True)
  assert train.rating is not None  # It has levels.
  mean = np.full(len(truth), np.nanmean(train.rating.astype(np.float64)))
  guesses = {
    SYSTEM: levels[logs.argmax(axis=1)],
    EXPECTED: chances @ levels,
    "train mean": mean,
  }
  return [
    _rating_row(store, split, f"rating: {name}", guess - truth, owners)
    for name, guess in guesses.items()
  ]


def _rating_row(
  store: protocol.Store,
  split: str,
  system: str,
  error: np.ndarray,
  owners: np.ndarray,
) -> TaskRow:
  config, users = store.config, clusters.of_owners(owners)
  statistics = {"rmse": _rmse, "mae": _mae}
  return TaskRow(
    split,
    system,
    {name: own(error) for name, own in statistics.items()},
    {
      name: metrics.bootstrap_ci95(
        functools.partial(_of_drawn, own, error),
        len(error),
        config.ground.bootstrap_samples,
        config.seed,
        users,
      )
      for name, own in statistics.items()
    },
    len(error),
    [config.seed],
    clusters.count(users),
    {"error": error},
  )


def _of_drawn(statistic, error: np.ndarray, drawn: np.ndarray) -> float:
  return statistic(error[drawn])


def _rmse(error: np.ndarray) -> float:
  return float(np.sqrt(np.mean(error**2)))


def _mae(error: np.ndarray) -> float:
  return float(np.mean(np.abs(error)))
