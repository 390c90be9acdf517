"""From embeddings to the tables of metrics/ground_eval.json.

Valid is ranked at every gamma of the grid, gammas are chosen, test is ranked
at the chosen ones. Users are streamed in blocks; the item axis is sharded.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from bigrec_jax.config import GroundConfig
from bigrec_jax.devices import blocks
from bigrec_jax.progress import Reports
from bigrec_jax.rankers import (
  baselines,
  cf as cf_rankers,
  duplicates,
  engine,
  protocol,
  report_rows,
  splits as splits_lib,
)
from bigrec_jax.rankers.combine import calibrate, injection, two_gammas
from bigrec_jax.rankers.distance import (
  critical,
  distance,
  injected,
  resolution,
  user_block,
)
from bigrec_jax.rankers.splits import Split
from bigrec_jax.results import (
  ground_file,
  paired_tests,
  rows,
)
from bigrec_jax.results.chosen import parts_of
from bigrec_jax.workdir import parts as parts_lib

# Names of ranks that no injection has.
_PLAIN, _PAIRS = "ranks", "ranks of pairs"


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
  """Everything that ground_eval reports.

  Attributes:
    results: those of test first, then valid's without injection.
    baselines: most_pop, random and, with CF scores, cf.
    gamma_curves: of each injection with one gamma, on valid.
    gamma_pairs: of popularity+cf with two, on valid.
    ranks: {split: arrays for ranks/<split>.npz}: "target" [N]; "none" [N];
      each injection [N] at its single gamma, and for test at all gammas
      chosen: "<injection>:gammas" [g] and "<injection>:ranks" [g, N];
      "popularity+cf:two_gammas" [N]; "baseline:<name>" [N]. Valid's ranks
      under injection are exact only below the largest cutoff, with two gammas
      below 20.
  """

  results: list[rows.MetricRow]
  baselines: list[rows.BaselineRow]
  gamma_curves: dict[str, ground_file.Curve]
  gamma_pairs: dict[str, ground_file.Pairs]
  ranks: dict[str, dict[str, np.ndarray]]


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
  once: parts_lib.Once = parts_lib.at_once,
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
    once: knows the blocks of users, and the baselines, that were ranked before
      a kill.

  Raises:
    UserError: shapes don't fit, something isn't finite, popularity is
      constant, or gammas are to be chosen without valid.
  """
  about = splits, item_embeddings, groups, popularity, config, mesh
  return _Run(*about, seed, progress, once).run()


@dataclasses.dataclass
class _Ranked:
  """Ranks of one split.

  Attributes:
    plain: [N].
    injected: by injection [N, G].
    pairs: with two gammas, valid [N, Q] at all tried and test [N, 1]; else
      [N, 0].
  """

  plain: np.ndarray
  injected: dict[str, np.ndarray]
  pairs: np.ndarray


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
    once: parts_lib.Once,
  ):
    splits_lib.check(splits, item_embeddings, groups, popularity)
    self._config, self._seed, self._progress = config, seed, progress
    self._once, self._ranked = once, 0
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
    self._injections = splits_lib.injections(config, splits)
    self._gammas = calibrate.parse_grid(config.gamma_grid)
    # 1 stands for the fallback gamma of -1.
    magnitudes = np.union1d(self._gammas[self._gammas > 0], [1.0])
    self._shape = critical.grid_shape(magnitudes)
    self._cutoffs = sorted({*config.cutoffs, calibrate.SINGLE_CUTOFF})
    self._pairs: two_gammas.Pairs | None = None
    self._pair: injection.Gammas | None = None
    # Pairs are chosen by the first, and compared with other injections by it
    # or, where it isn't reported, by the largest that is.
    self._pair_cutoffs = [calibrate.SINGLE_CUTOFF]
    if calibrate.SINGLE_CUTOFF not in config.cutoffs:
      self._pair_cutoffs.append(max(config.cutoffs))
    self._swept = self._injections
    if (
      two_gammas.PROTOCOL in config.protocols
      and two_gammas.INJECTION in self._injections
    ):
      self._pairs = two_gammas.Pairs(self._gammas, self._shape)
      self._swept = [*dict.fromkeys([*self._injections, *two_gammas.PARTS])]
    self._table = distance.item_table(item_embeddings, groups, mesh)
    self._members = user_block.members(groups)
    self._popularity = None
    if any("popularity" in parts_of(name) for name in self._swept):
      self._popularity = injection.Popularity(self._counts, self._table)
    self._rows = user_block.block_rows(
      self._table,
      config.batch_size,
      config.block_items,
      max(len(split.targets) for split in self._splits.values()),
    )

  def run(self) -> Evaluation:
    ranked, gammas, curves, choices = {}, {}, {}, {}
    pairs: dict[str, ground_file.Pairs] = {}
    if "valid" in self._splits:
      gammas["valid"] = dict.fromkeys(self._swept, self._gammas)
      ranked["valid"] = self._rank("valid", gammas["valid"], self._cutoffs[-1])
    for name in self._injections:
      curve = calibrate.curves(ranked["valid"].injected[name], self._cutoffs)
      curves[name] = self._curve(curve)
      choices[name] = self._choose(name, curve)
    if self._pairs is not None:
      self._pair, tried = self._pairs.choose(
        ranked["valid"].pairs, self._pair_cutoffs
      )
      pairs[two_gammas.INJECTION] = tried
    if "test" in self._splits:
      gammas["test"] = {
        name: np.unique([g for choice in chosen for g in choice.gammas])
        for name, chosen in choices.items()
      }
      ranked["test"] = self._rank("test", gammas["test"], None)
    results, others, arrays = [], [], {}
    for split in reversed(ranked):
      about = split, ranked[split], gammas[split], choices
      results += self._results(*about)
      own = self._baselines(split)
      others += [row for row, _ in own]
      arrays[split] = self._arrays(*about) | {
        paired_tests.BASELINE + row.name: ranks for row, ranks in own
      }
    return Evaluation(results, others, curves, pairs, arrays)

  def _curve(self, curve: Mapping[str, Any]) -> ground_file.Curve:
    """Returns what is kept of a curve: the cutoffs that are reported."""
    kept = {
      metric: {str(k): by[str(k)].tolist() for k in self._config.cutoffs}
      for metric, by in curve.items()
    }
    return ground_file.Curve(self._gammas.tolist(), **kept)

  def _choose(self, name: str, curve: Any) -> list[calibrate.Choice]:
    """Returns the choice of each protocol; `single_gamma` is always last."""
    config = self._config
    last = "single_gamma"
    protocols = [
      p for p in config.protocols if p not in (last, two_gammas.PROTOCOL)
    ]
    quirk = config.protocol_quirks and name == "popularity"
    return [
      calibrate.choose(protocol, curve, self._gammas, config.cutoffs, quirk)
      for protocol in (*protocols, last)
    ]

  def _rank(
    self, name: str, gammas: Mapping[str, np.ndarray], limit: int | None
  ) -> _Ranked:
    """Ranks one split, block by block."""
    self._ranked, count, found = 0, len(self._splits[name].targets), []
    for part in blocks.user_blocks(count, self._rows):
      key = f"ranks {name} {part.start}-{part.stop}"
      rank = functools.partial(self._rank_block, name, gammas, limit, part)
      found.append(self._once(key, rank))
    self._progress.skip(count - self._ranked)  # Before a kill.
    joined = {
      key: np.concatenate([block[key] for block in found]) for key in found[0]
    }
    plain, pairs = joined.pop(_PLAIN), joined.pop(_PAIRS)
    return _Ranked(plain, joined, pairs)

  def _rank_block(
    self,
    name: str,
    gammas: Mapping[str, np.ndarray],
    limit: int | None,
    part: slice,
  ) -> dict[str, np.ndarray]:
    """Returns the ranks of a block of users: those of `_Ranked`, by name."""
    split = self._splits[name]
    block = user_block.open_block(
      self._table,
      self._members,
      np.asarray(split.queries[part], np.float32),
      split.targets[part],
      self._rows,
      part.start,
      name,
    )
    plain = resolution.plain_ranks(block).astype(np.int32)
    if gammas:
      user_block.check_spread(block, part.start, name)
    cf = None
    if split.cf_scores is not None:
      scores = np.ascontiguousarray(split.cf_scores[part], np.float32)
      injection.score_range(scores, part.start, split.cf_name)
      if any("cf" in parts_of(key) for key in gammas):
        cf = injection.cf_block(
          scores, part.start, split.cf_name, self._rows, self._table
        )
    both = injection.Injection(self._popularity, cf)
    found = {
      key: injected.injected_ranks(
        block, both.only(parts_of(key)), values, self._shape, plain, limit
      ).astype(np.int32)
      for key, values in gammas.items()
    }
    pairs = np.zeros((len(block), 0), np.int32)
    if self._pairs is not None and self._pair is not None:
      pairs = self._pairs.ranks_at(block, both, self._pair, plain)
    elif self._pairs is not None:
      most = max(self._pair_cutoffs)
      pairs = self._pairs.ranks(block, both, plain, found, most)
    self._ranked += len(block)
    self._progress.update(len(block))
    return {**found, _PLAIN: plain, _PAIRS: pairs}

  def _results(
    self,
    split: str,
    ranked: _Ranked,
    gammas: Mapping[str, np.ndarray],
    choices: Mapping[str, list[calibrate.Choice]],
  ) -> list[rows.MetricRow]:
    """Returns the result rows of a split; of valid only those uninjected."""
    config, found = self._config, []
    if "none" in config.injections:
      row = self._measured(split, ranked.plain)
      for protocol in config.protocols:
        if protocol != two_gammas.PROTOCOL:
          found.append(rows.MetricRow(split, "none", protocol, None, **row))
    if split == "valid":
      return found  # What valid says about gammas is in the curves.
    for name, chosen in choices.items():
      ranks = dict(zip(gammas[name], ranked.injected[name].T, strict=True))
      for choice in chosen:
        if choice.protocol in config.protocols:
          named = split, name, choice.protocol, choice.report
          own = report_rows.of_choice(
            choice, ranks, config, self._seed, self._splits[split].users
          )
          found.append(rows.MetricRow(*named, **own))
      if name == two_gammas.INJECTION and self._pair is not None:
        named = split, name, two_gammas.PROTOCOL, self._pair._asdict()
        row = self._measured(split, ranked.pairs[:, 0])
        found.append(rows.MetricRow(*named, **row))
    return found

  def _measured(self, split: str, ranks: np.ndarray) -> dict[str, Any]:
    """Returns ndcg, hr and ci95 of ranks [N]."""
    row = self._row(ranks, "", split)
    return {"ndcg": row.ndcg, "hr": row.hr, "ci95": row.ci95}

  def _row(self, ranks: np.ndarray, name: str, split: str) -> rows.BaselineRow:
    users = self._splits[split].users
    about = ranks, self._config, self._seed
    return report_rows.of_ranks(*about, name=name, split=split, users=users)

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
    if self._pairs is not None and self._pair is not None:
      # Of valid's pairs the one that was chosen; test has only that.
      own = (self._pairs.pairs == self._pair).all(axis=1)
      place = 0 if split == "test" else int(np.flatnonzero(own)[0])
      arrays[two_gammas.RANKS] = ranked.pairs[:, place].astype(np.int32)
    return arrays

  def _baselines(self, split: str) -> list[tuple[rows.BaselineRow, np.ndarray]]:
    """Returns the rows of a split and the ranks [N] that each is of."""
    own, groups = self._splits[split], self._table.groups
    items = len(groups)
    ranks_of = engine.Ranks(
      own.targets,
      items,
      self._table.mesh,
      most_users=self._config.batch_size,
      groups=groups,
    )
    rankers: dict[str, protocol.Ranker] = {
      "most_pop": baselines.MostPopular(self._counts),
      "random": baselines.Random(items, self._seed),
    }
    if own.cf_scores is not None:
      rankers["cf"] = cf_rankers.of_scores(own.cf_scores)
    found = []
    for name, ranker in rankers.items():
      ranks = engine.ranks_once(self._once, f"{name} {split}", ranks_of, ranker)
      found.append((self._row(ranks, name, split), ranks))
    return found
