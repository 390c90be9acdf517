"""From embeddings to the tables of metrics/ground_eval.json.

Valid is ranked at every gamma of the grid, gammas are chosen, test is ranked
at the chosen ones. Users are streamed in blocks; the item axis is sharded.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging
from jax.sharding import Mesh

from bigrec_jax import errors
from bigrec_jax.config import GroundConfig
from bigrec_jax.devices import blocks
from bigrec_jax.progress import Reports
from bigrec_jax.rankers import (
  baselines,
  cf as cf_rankers,
  duplicates,
  engine,
)
from bigrec_jax.rankers.combine import calibrate, injection
from bigrec_jax.rankers.distance import (
  critical,
  distance,
  resolution,
  user_block,
)
from bigrec_jax.results import metrics

# Parts of each injection of the configuration.
_PARTS = {
  "popularity": ("popularity",),
  "cf": ("cf",),
  "popularity+cf": ("popularity", "cf"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """What is ranked on one split.

  Attributes:
    queries: [N, D] float32, embeddings of the predictions.
    targets: [N] catalogue rows.
    cf_scores: [N, I] float32, a memory map will do; None = no CF.
    cf_name: where the scores come from, for messages.
  """

  queries: np.ndarray
  targets: np.ndarray
  cf_scores: np.ndarray | None
  cf_name: str


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
  """Everything that ground_eval reports.

  Attributes:
    results: rows of `results` in metrics/ground_eval.json; those of test
      first, then valid's without injection.
    baselines: rows {"name", "split", "ndcg", "hr", "ci95"} of most_pop,
      random and, with CF scores, cf.
    gamma_curves: {injection: {"gamma": [...], "ndcg": {"1": [...], ...},
      "hr": {...}}}, on valid.
    ranks: {split: arrays for ranks/<split>.npz}: "target" [N]; "none" [N];
      each injection [N] at its single gamma, and for test at all gammas
      chosen: "<injection>:gammas" [g] and "<injection>:ranks" [g, N]. Valid's
      ranks under injection are exact only below the largest cutoff.
  """

  results: list[dict[str, Any]]
  baselines: list[dict[str, Any]]
  gamma_curves: dict[str, Any]
  ranks: dict[str, dict[str, np.ndarray]]


def report_row(
  ranks: np.ndarray, config: GroundConfig, seed: int, **names: Any
) -> dict[str, Any]:
  """Returns one row of metrics of any ranker: names, ndcg, hr and ci95."""
  interval = metrics.summarise_ci95(
    ranks, config.cutoffs, config.bootstrap_samples, seed
  )
  return {**names, **metrics.summarise(ranks, config.cutoffs), "ci95": interval}


def evaluate(
  splits: Mapping[str, Split],
  item_embeddings: np.ndarray,
  groups: np.ndarray,
  popularity: np.ndarray,
  config: GroundConfig,
  mesh: Mesh,
  *,
  seed: int,
  progress: Reports,
) -> Evaluation:
  """Ranks valid and test, without and with injection.

  Args:
    splits: "valid" and "test"; either alone works where nothing is injected.
    item_embeddings: [I, D] float32, a memory map will do.
    groups: [I] int32, `Catalogue.groups`: rows of one title.
    popularity: [I] counts of each item in train.
    config: the `ground` section. Injections of CF are left out, with a
      warning, where a split has no CF scores.
    mesh: over which catalogue rows are sharded.
    seed: of the bootstrap and of the random baseline.
    progress: told of every user ranked (`len` of all splits together).

  Raises:
    UserError: shapes don't fit, something isn't finite or is constant, or
      gammas are to be chosen without valid.
  """
  return _Run(
    splits, item_embeddings, groups, popularity, config, mesh, seed, progress
  ).run()


@dataclasses.dataclass
class _Ranked:
  """Ranks of one split: plain [N], by injection [N, G]."""

  plain: np.ndarray
  injected: dict[str, np.ndarray]


class _Run:
  """One call of `evaluate`."""

  def __init__(
    self,
    splits: Mapping[str, Split],
    item_embeddings: np.ndarray,
    groups: np.ndarray,
    popularity: np.ndarray,
    config: GroundConfig,
    mesh: Mesh,
    seed: int,
    progress: Reports,
  ):
    _check(splits, item_embeddings, groups, popularity)
    self._config, self._seed, self._progress = config, seed, progress
    splits = {
      name: dataclasses.replace(
        split,
        targets=duplicates.targets_by(config.duplicates, split.targets, groups),
      )
      for name, split in splits.items()
    }
    groups = duplicates.groups_by(config.duplicates, groups)
    self._splits = splits
    self._counts = np.asarray(popularity)
    self._injections = _injections(config, splits)
    self._gammas = calibrate.parse_grid(config.gamma_grid)
    # 1 stands for the fallback gamma of -1.
    magnitudes = np.union1d(self._gammas[self._gammas > 0], [1.0])
    self._shape = critical.grid_shape(magnitudes)
    self._table = distance.item_table(item_embeddings, groups, mesh)
    self._members = user_block.members(groups)
    self._popularity = None
    if any("popularity" in _PARTS[name] for name in self._injections):
      self._popularity = injection.Popularity(self._counts, self._table)
    self._rows = user_block.block_rows(
      self._table,
      config.batch_size,
      config.block_items,
      max(len(split.targets) for split in self._splits.values()),
    )

  def run(self) -> Evaluation:
    config = self._config
    ranked, gammas, curves, choices = {}, {}, {}, {}
    cutoffs = sorted({*config.cutoffs, calibrate.SINGLE_CUTOFF})
    if "valid" in self._splits:
      gammas["valid"] = dict.fromkeys(self._injections, self._gammas)
      ranked["valid"] = self._rank("valid", gammas["valid"], cutoffs[-1])
    for name in self._injections:
      curve = calibrate.curves(ranked["valid"].injected[name], cutoffs)
      curves[name] = {"gamma": self._gammas.tolist()} | {
        metric: {str(k): curve[metric][str(k)].tolist() for k in config.cutoffs}
        for metric in curve
      }
      choices[name] = self._choose(name, curve)
    if "test" in self._splits:
      gammas["test"] = {
        name: np.unique([g for choice in chosen for g in choice.gammas])
        for name, chosen in choices.items()
      }
      ranked["test"] = self._rank("test", gammas["test"], None)
    results, rows, arrays = [], [], {}
    for split in reversed(ranked):
      about = split, ranked[split], gammas[split], choices
      results += self._results(*about)
      arrays[split] = self._arrays(*about)
      rows += self._baselines(split)
    return Evaluation(results, rows, curves, arrays)

  def _choose(self, name: str, curve: Any) -> list[calibrate.Choice]:
    """Returns the choice of each protocol; `single_gamma` is always last."""
    config = self._config
    protocols = [p for p in config.protocols if p != "single_gamma"]
    quirk = config.protocol_quirks and name == "popularity"
    return [
      calibrate.choose(protocol, curve, self._gammas, config.cutoffs, quirk)
      for protocol in (*protocols, "single_gamma")
    ]

  def _rank(
    self, name: str, gammas: Mapping[str, np.ndarray], limit: int | None
  ) -> _Ranked:
    """Ranks one split, block by block."""
    split = self._splits[name]
    count = len(split.targets)
    plain = np.zeros(count, np.int32)
    injected = {
      key: np.zeros((count, len(values)), np.int32)
      for key, values in gammas.items()
    }
    for part in blocks.user_blocks(count, self._rows):
      block = user_block.open_block(
        self._table,
        self._members,
        np.asarray(split.queries[part], np.float32),
        split.targets[part],
        self._rows,
        part.start,
        name,
      )
      plain[part] = resolution.plain_ranks(block)
      if gammas:
        user_block.check_spread(block, part.start, name)
      cf = None
      if split.cf_scores is not None:
        scores = np.ascontiguousarray(split.cf_scores[part], np.float32)
        injection.score_range(scores, part.start, split.cf_name)
        if any("cf" in _PARTS[key] for key in gammas):
          cf = injection.cf_block(
            scores, part.start, split.cf_name, self._rows, self._table
          )
      for key, values in gammas.items():
        weights = injection.Injection(
          self._popularity if "popularity" in _PARTS[key] else None,
          cf if "cf" in _PARTS[key] else None,
        )
        injected[key][part] = resolution.injected_ranks(
          block, weights, values, self._shape, plain[part], limit
        )
      self._progress.update(len(block))
    return _Ranked(plain, injected)

  def _results(
    self,
    split: str,
    ranked: _Ranked,
    gammas: Mapping[str, np.ndarray],
    choices: Mapping[str, list[calibrate.Choice]],
  ) -> list[dict[str, Any]]:
    """Returns the result rows of a split; of valid only those uninjected."""
    config, rows = self._config, []
    if "none" in config.injections:
      row = report_row(ranked.plain, config, self._seed)
      for protocol in config.protocols:
        names = {"injection": "none", "protocol": protocol, "gamma": None}
        rows.append({"split": split, **names, **row})
    if split == "valid":
      return rows  # What valid says about gammas is in the curves.
    for name, chosen in choices.items():
      ranks = dict(zip(gammas[name], ranked.injected[name].T, strict=True))
      for choice in chosen:
        if choice.protocol in config.protocols:
          names = {"injection": name, "protocol": choice.protocol}
          rows.append({"split": split, **names, **self._metrics(choice, ranks)})
    return rows

  def _metrics(
    self, choice: calibrate.Choice, ranks: Mapping[float, np.ndarray]
  ) -> dict[str, Any]:
    """Returns gamma, ndcg, hr and ci95; ranks are [N] by gamma."""
    config = self._config
    row = {"gamma": choice.report, "ndcg": {}, "hr": {}}
    row["ci95"] = {"ndcg": {}, "hr": {}}
    for name, metric in metrics.METRICS.items():
      for k in config.cutoffs:
        own = ranks[choice.gamma[name][str(k)]]
        row[name][str(k)] = metric(own, k)
        row["ci95"][name][str(k)] = metrics.ci95(
          own, name, k, config.bootstrap_samples, self._seed
        )
    return row

  def _arrays(
    self,
    split: str,
    ranked: _Ranked,
    gammas: Mapping[str, np.ndarray],
    choices: Mapping[str, list[calibrate.Choice]],
  ) -> dict[str, np.ndarray]:
    """Returns the ranks to keep of a split; see `Evaluation.ranks`."""
    arrays = {"target": self._splits[split].targets, "none": ranked.plain}
    for name, chosen in choices.items():
      values, ranks = gammas[name], ranked.injected[name]
      single = chosen[-1].gammas[0]
      arrays[name] = ranks[:, np.flatnonzero(values == single)[0]]
      if split == "test":
        arrays[f"{name}:gammas"] = values
        arrays[f"{name}:ranks"] = ranks.T
    return arrays

  def _baselines(self, split: str) -> list[dict[str, Any]]:
    own, groups = self._splits[split], self._table.groups
    items = len(groups)
    ranks_of = engine.Ranks(
      own.targets,
      items,
      self._table.mesh,
      most_users=self._config.batch_size,
      groups=groups,
    )
    rankers = {
      "most_pop": baselines.MostPopular(self._counts),
      "random": baselines.Random(items, self._seed),
    }
    if own.cf_scores is not None:
      rankers["cf"] = cf_rankers.of_scores(own.cf_scores)
    return [
      report_row(
        ranks_of(ranker), self._config, self._seed, name=name, split=split
      )
      for name, ranker in rankers.items()
    ]


def _injections(config: GroundConfig, splits: Mapping[str, Split]) -> list[str]:
  """Returns the injections that can be run."""
  found = [name for name in config.injections if name != "none"]
  without = [n for n, s in splits.items() if s.cf_scores is None]
  if without and any("cf" in _PARTS[name] for name in found):
    logging.warning(
      "no CF scores for %s: injections of CF are left out (config.ground."
      "cf_scores or config.ground.cf_model gives them)",
      " and ".join(without),
    )
    found = [name for name in found if "cf" not in _PARTS[name]]
  if found and "valid" not in splits:
    raise errors.UserError(
      f"config.ground.injections: {', '.join(found)} found, but gamma is chosen"
      " on valid and there are no valid predictions; expected them, or none"
    )
  return found


def _check(
  splits: Mapping[str, Split],
  item_embeddings: np.ndarray,
  groups: np.ndarray,
  popularity: np.ndarray,
) -> None:
  """Raises UserError where sizes don't fit together."""
  items, width = item_embeddings.shape
  if len(groups) != items or len(popularity) != items:
    raise errors.UserError(
      f"catalogue: {len(groups)} items with {len(popularity)} counts found,"
      f" {items} (the item embeddings' rows) expected"
    )
  for name, split in splits.items():
    count = len(split.targets)
    if not count:
      raise errors.UserError(f"{name}: no examples, at least one expected")
    if split.queries.shape != (count, width):
      raise errors.UserError(
        f"{name} queries: {list(split.queries.shape)} found,"
        f" {[count, width]} expected"
      )
    if split.targets.min() < 0 or split.targets.max() >= items:
      row = int(
        np.flatnonzero((split.targets < 0) | (split.targets >= items))[0]
      )
      raise errors.UserError(
        f"{name}: the target of row {row} is no row of the catalogue"
        f" ({split.targets[row]} of {items})"
      )
    scores = split.cf_scores
    if scores is not None and scores.shape != (count, items):
      raise errors.UserError(
        f"{split.cf_name}: shape {list(scores.shape)} found, {[count, items]}"
        " (examples, items) expected"
      )
