"""Reads what a workdir holds for its report; anything may be missing."""

import dataclasses
import json
import os
import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from bigrec_jax import errors
from bigrec_jax.data.text import prompts
from bigrec_jax.results import (
  cf_file,
  clusters,
  contamination,
  ground_file,
  item_fairness,
  paired_tests,
  rows,
  run_inputs,
)
from bigrec_jax.workdir import origins, paths as paths_lib, storage

T = TypeVar("T")
METRICS = ("hr", "ndcg")
INJECTIONS = {
  "none": "BIGRec",
  "popularity": "BIGRec + popularity",
  "cf": "BIGRec + CF",
  "popularity+cf": "BIGRec + popularity + CF",
  "popularity+cf:two_gammas": "BIGRec + popularity + CF, two gammas",
}
PROTOCOLS = {
  "bigrec": "a gamma for each metric and K, chosen on valid",
  "single_gamma": "one gamma, chosen by valid NDCG@20",
  "two_gammas": "one gamma for each part, chosen by valid NDCG@20",
}
# `cf` in a baseline is the ranking by the scores that are injected.
_ALIASES = {"most_pop": "most_popular", "cf": "cf_alone"}
_LABELS = {
  "random": "Random",
  "most_popular": "Most popular",
  "bm25": "BM25 of history titles",
  "bm25+cf": "BM25 of history titles + CF",
  "item_knn": "Item kNN",
  "gru4rec": "GRU4Rec",
  "caser": "Caser",
  "sasrec": "SASRec",
  "dros": "DROS",
  "cf_alone": "CF scores alone",
  "oracle": "Oracle",
  "oracle_mean_taste": "Oracle, mean taste",
}


@dataclasses.dataclass(frozen=True)
class System:
  """One ranked system on one split.

  Attributes:
    key: its name in the files, e.g. "most_popular" or "popularity".
    label: its name for people.
    kind: "baseline", "bigrec", "system" (beside the published rows) or
      "oracle".
    protocol: how gamma was chosen, "" where there is none.
    values: {"hr": {"1": ...}, "ndcg": {...}}.
    ci95: the same with [low, high], where known.
    row: its name among the rows of tests (results/paired_tests.py), "" where
      no ranks of it are kept.
    deviation: the same as `values`, over training seeds; empty of one seed.
  """

  key: str
  label: str
  kind: str
  protocol: str
  values: Mapping[str, Mapping[str, float]]
  ci95: Mapping[str, Mapping[str, Sequence[float]]]
  row: str = ""
  deviation: Mapping[str, Mapping[str, float]] = dataclasses.field(
    default_factory=dict
  )

  def get(self, metric: str, k: int) -> float | None:
    """Returns metric@k, or None where it is not known."""
    return self.values.get(metric, {}).get(str(k))


@dataclasses.dataclass(frozen=True, eq=False)
class RunData:
  """The readable parts of a workdir; an empty value is a missing part.

  Attributes:
    paths: where they were read from.
    ground: metrics/ground_eval.json.
    cf: rows of metrics/cf.json.
    train: lines of metrics/train.jsonl.
    pretrain: lines of metrics/pretrain.jsonl.
    throughput: metrics/throughput.json, a stage to count, unit, seconds.
    manifest: data/manifest.json.
    doctor: data/doctor.json.
    predictions: rows of predictions/test.json.
    examples: rows of ranks/test_examples.json.
    catalogue: lines of data/catalogue.jsonl.
    recommended: external ids of each list in recommendations.jsonl.
    ranks: [N] of each injection on test, from ranks/*.npz, and "target"; of
      baselines and systems, too; "user" says whose rows they are.
    contamination: metrics/contamination.json.
    item_fairness: metrics/item_fairness.json.
    task: whose file `task_rows` are of; "" for BIGRec, which has `ground`.
    task_rows: of metrics/<task>.json.
    records: records/<name>.json by name.
    origins: origin.json of each converted GGUF base.
    damaged: (file, why it was left out) of what is there and can't be read.
  """

  paths: paths_lib.Paths
  ground: ground_file.GroundFile | None
  cf: Sequence[cf_file.CfRow]
  train: list[dict[str, Any]]
  pretrain: list[dict[str, Any]]
  throughput: dict[str, Any]
  manifest: dict[str, Any]
  doctor: dict[str, Any]
  predictions: list[dict[str, Any]]
  examples: list[dict[str, Any]]
  catalogue: list[dict[str, Any]]
  recommended: Sequence[Sequence[str]]
  ranks: dict[str, np.ndarray]
  contamination: contamination.Probe | None
  item_fairness: item_fairness.FairnessFile | None
  task: str
  task_rows: tuple[rows.TaskRow, ...]
  records: Mapping[str, Mapping[str, Any]]
  origins: Sequence[dict[str, Any]]
  damaged: Sequence[tuple[str, str]]

  def missing(self) -> list[tuple[str, str]]:
    """Returns (file, mode that makes it) of what is not there."""
    wanted: tuple[tuple[Any, pathlib.Path, str], ...] = (
      (self.manifest, self.paths.manifest, "prepare"),
      (self.catalogue, self.paths.catalogue, "prepare"),
      (self.doctor, self.paths.doctor, "prepare"),
      (self.train, self.paths.train_metrics, "train"),
      (self.throughput, self.paths.throughput, "any stage"),
    )
    if self.task:
      file = self.paths.task_metrics(self.task)
      wanted += ((self.task_rows, file, "evaluate"),)
    else:
      wanted += self._grounded()
    left_out = {name for name, _ in self.damaged}
    named = [(str(p.relative_to(self.paths.root)), v, m) for v, p, m in wanted]
    return [
      (name, mode)
      for name, value, mode in named
      if not value and name not in left_out
    ]

  def _grounded(self) -> tuple[tuple[Any, pathlib.Path, str], ...]:
    """Returns what BIGRec's evaluation leaves."""
    return (
      (self.predictions, self.paths.predictions("test"), "generate"),
      (self.ground, self.paths.ground_eval, "ground_eval"),
      (self.examples, self.paths.ground_examples, "ground_eval"),
      (self.ranks, self.paths.ranks / "*.npz", "ground_eval"),
    )

  @property
  def users(self) -> clusters.Clusters | None:
    """Whose rows the ranks are; None where each is a user's only one."""
    return clusters.of_owners(self.ranks.get(paired_tests.OWNERS))

  @property
  def noun(self) -> str:
    """What is counted on test: users, or rows where a user has several."""
    return "users" if self.users is None else "rows"

  @property
  def is_empty(self) -> bool:
    """Whether there is nothing at all to report."""
    return not any(
      getattr(self, field.name)
      for field in dataclasses.fields(self)
      if field.name not in ("paths", "task", "records", "origins")
    )


def load(
  root: pathlib.Path,
  task: str = "",
  altered: Mapping[str, str] = types.MappingProxyType({}),
) -> RunData:
  """Reads a workdir; a damaged file is left out, and said to be.

  Args:
    root: the workdir.
    task: whose rows to read; "" where they are BIGRec's.
    altered: files that hold something else than was written, by their paths
      within the workdir, and why that is known; they are left out, too.
  """
  paths = paths_lib.Paths(root)
  read = _Reader(root, altered)
  return RunData(
    paths=paths,
    ground=read(paths.ground_eval, ground_file.read, None),
    cf=read(paths.metrics / "cf.json", cf_file.read, ()),
    train=read(paths.train_metrics, run_inputs.curve, []),
    pretrain=read(paths.pretrain_metrics, run_inputs.curve, []),
    throughput=read(paths.throughput, run_inputs.throughput, {}),
    manifest=read(paths.manifest, run_inputs.manifest, {}),
    doctor=read(paths.doctor, run_inputs.doctor, {}),
    predictions=read(paths.predictions("test"), run_inputs.predictions, []),
    examples=read(paths.ground_examples, run_inputs.examples, []),
    catalogue=read(paths.catalogue, run_inputs.catalogue, []),
    recommended=read(paths.recommendations, run_inputs.recommended, ()),
    ranks=_ranks(paths.ranks, read),
    contamination=read(paths.contamination, contamination.read, None),
    item_fairness=read(paths.item_fairness, item_fairness.read, None),
    task=task,
    task_rows=read(paths.task_metrics(task), rows.read_task, ())
    if task
    else (),
    records={
      path.name: read(path, storage.read_object, {})
      for path in sorted((root / "records").glob("*.json"))
    },
    origins=[
      origin
      for path in paths.converted_gguf.glob(f"[0-9a-f]*/{origins.FILE}")
      if (origin := read(path, origins.read_file, None)) is not None
    ],
    damaged=read.damaged,
  )


class _Reader:
  """Reads files of a workdir, and remembers those that can't be read.

  Attributes:
    damaged: (file within the workdir, why) of each.
  """

  def __init__(self, root: pathlib.Path, altered: Mapping[str, str]):
    self._root, self._altered = root, altered
    self.damaged: list[tuple[str, str]] = []

  def __call__(
    self, path: pathlib.Path, read: Callable[[pathlib.Path], T], absent: T
  ) -> T:
    if not os.path.lexists(path):
      return absent
    name = path.relative_to(self._root).as_posix()
    if name in self._altered:
      self.damaged.append((name, self._altered[name]))
      return absent
    try:
      return read(path)
    except (errors.UserError, OSError) as error:
      self.damaged.append((name, errors.one_line(str(error))))
      return absent


def _ranks(folder: pathlib.Path, read: _Reader) -> dict[str, np.ndarray]:
  """Returns the test ranks of each injection.

  An array belongs to the injection that its name is, or ends in; a file of
  one split is named after it.
  """
  found: dict[str, np.ndarray] = {}
  for path in sorted(folder.glob("test*.npz")):
    nothing: dict[str, np.ndarray] = {}
    found |= read(path, run_inputs.ranks, nothing)
  return found


def systems(data: RunData, split: str) -> list[System]:
  """Returns every system that was ranked on a split, oracle last."""
  found = [_cf_system(row) for row in data.cf if row.split == split]
  ground = data.ground
  for other in () if ground is None else ground.baselines_of(split):
    system = _baseline(other)
    same = [one for one in found if one.values == system.values]
    # The scores injected may well be those of a model that is in cf.json.
    if system.key == "cf_alone" and same:
      one = same[0]
      both = f"{one.label}: {system.label}"
      found[found.index(one)] = dataclasses.replace(
        one, label=both, row=system.row, ci95=system.ci95 or one.ci95
      )
    else:
      found.append(system)
  for row in () if ground is None else ground.rows_of(split=split):
    found.append(_bigrec(row))
  for other in () if ground is None else ground.systems:
    if other.split == split:
      found.append(dataclasses.replace(_baseline(other), kind="system"))
  # Of two rows of one system the later, ground_eval's, stays.
  unique = {(s.kind, s.key, s.protocol): s for s in found}
  order = {"baseline": 0, "bigrec": 1, "system": 2, "oracle": 3}
  simple = {"random": 0, "most_popular": 1}
  return sorted(
    unique.values(), key=lambda s: (order[s.kind], simple.get(s.key, 2))
  )


def _bigrec(row: rows.MetricRow) -> System:
  key, protocol = row.injection, row.protocol
  if protocol == "two_gammas":
    key = f"{key}:{protocol}"
  return System(
    key=key,
    label=INJECTIONS.get(key, key),
    kind="bigrec",
    protocol="" if row.injection == "none" else protocol,
    values=_values(row),
    ci95=row.ci95,
    row="bigrec"
    if row.injection == "none"
    else f"bigrec+{row.injection}:{protocol}",
  )


def _cf_system(row: cf_file.CfRow) -> System:
  name = _ALIASES.get(row.model, row.model)
  return System(
    name,
    label(name),
    "baseline",
    "",
    _values(row),
    row.ci95,
    deviation=row.deviation,
  )


def _baseline(row: rows.BaselineRow) -> System:
  name = _ALIASES.get(row.name, row.name)
  kind = "oracle" if name.startswith("oracle") else "baseline"
  named = label(name), kind, "", _values(row), row.ci95, row.name
  return System(name, *named)


def label(name: str) -> str:
  """Returns a baseline or a system, by its name in files, for people."""
  name = _ALIASES.get(name, name)
  return _LABELS.get(name, name.replace("_", " "))


def _values(
  row: rows.MetricRow | rows.BaselineRow | cf_file.CfRow,
) -> dict[str, rows.ByCutoff]:
  return {"hr": row.hr, "ndcg": row.ndcg}


def cutoffs(found: Sequence[System]) -> list[int]:
  """Returns all K that any system was measured at, ascending."""
  return sorted(
    {int(k) for s in found for metric in s.values.values() for k in metric}
  )


def exact_title_rate(data: RunData) -> float | None:
  """Returns the share of first hypotheses that are titles of the catalogue."""
  titles = {prompts.clean_title(row["title"]) for row in data.catalogue}
  firsts = [row["predict"][0] for row in data.predictions if row.get("predict")]
  if not titles or not firsts:
    return None
  return sum(prompts.clean_title(t) in titles for t in firsts) / len(firsts)


def target_popularity(data: RunData) -> np.ndarray | None:
  """Returns the train popularity of each test target, [N], or None.

  The target's row comes with the ranks; a file without it leaves the title in
  the predictions (of duplicates, the most popular).
  """
  popularity = [row.get("popularity", 0) for row in data.catalogue]
  target = data.ranks.get("target")
  if target is not None and target.size and target.max() < len(popularity):
    return np.array(popularity)[target]
  by_title: dict[str, int] = {}
  for row, count in zip(data.catalogue, popularity, strict=True):
    title = prompts.clean_title(row["title"])
    by_title[title] = max(by_title.get(title, 0), count)
  targets = [
    prompts.clean_title(row.get("output", "")) for row in data.predictions
  ]
  if not targets or not all(title in by_title for title in targets):
    return None
  return np.array([by_title[title] for title in targets])


def stable_json(value: Any) -> str:
  """Returns a value as compact JSON, for tables of settings."""
  return json.dumps(value, ensure_ascii=False, default=str)
