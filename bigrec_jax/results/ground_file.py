"""metrics/ground_eval.json as an object: its rows, and valid by gamma."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bigrec_jax import errors
from bigrec_jax.results import comparisons, rows
from bigrec_jax.workdir import fields, origins, storage

_SERIES = fields.sequence(fields.number)
_BY_CUTOFF = rows.by_cutoff(_SERIES)


@dataclasses.dataclass(frozen=True)
class Curve:
  """Metrics on valid at every gamma of the grid.

  Attributes:
    gamma: [G] ascending.
    ndcg: {"1": [G], ...}.
    hr: likewise.
  """

  gamma: Sequence[float]
  ndcg: Mapping[str, Sequence[float]]
  hr: Mapping[str, Sequence[float]]

  def to_json(self) -> dict[str, Any]:
    """Returns the object of the file."""
    return {"gamma": self.gamma, "ndcg": self.ndcg, "hr": self.hr}

  @classmethod
  def from_json(cls, value: Any, where: str) -> "Curve":
    """Reads an object of the file; raises UserError where it isn't one."""
    found = fields.Fields(value, where)
    gamma = found.get("gamma", _SERIES)
    metrics = [found.get(name, _BY_CUTOFF) for name in ("ndcg", "hr")]
    for name, series in zip(("ndcg", "hr"), metrics, strict=True):
      _same_length(f"{where}.{name}", series, len(gamma))
    return cls(gamma, *metrics)


@dataclasses.dataclass(frozen=True)
class Pairs:
  """NDCG on valid at every pair of gammas that was tried.

  Attributes:
    popularity: [Q] the gamma of popularity.
    cf: [Q] that of CF.
    ndcg: {"20": [Q]}, and at the largest cutoff reported where 20 isn't one.
  """

  popularity: Sequence[float]
  cf: Sequence[float]
  ndcg: Mapping[str, Sequence[float]]

  def to_json(self) -> dict[str, Any]:
    """Returns the object of the file."""
    return {"popularity": self.popularity, "cf": self.cf, "ndcg": self.ndcg}

  @classmethod
  def from_json(cls, value: Any, where: str) -> "Pairs":
    """Reads an object of the file; raises UserError where it isn't one."""
    found = fields.Fields(value, where)
    pairs = cls(
      found.get("popularity", _SERIES),
      found.get("cf", _SERIES),
      found.get("ndcg", _BY_CUTOFF),
    )
    _same_length(where, {"cf": pairs.cf}, len(pairs.popularity))
    _same_length(f"{where}.ndcg", pairs.ndcg, len(pairs.popularity))
    return pairs


@dataclasses.dataclass(frozen=True)
class GroundFile:
  """What ground_eval measured.

  Attributes:
    num_items: of the catalogue.
    num_examples: by split.
    fingerprints: of what the ranks were made from.
    results: rows of BIGRec.
    baselines: rows of everything else on the same users.
    gamma_curves: of each injection with one gamma, on valid.
    gamma_pairs: of each injection with two, on valid.
    bm25: the parameters of the baseline of that name, of how many pairs tried
      and its NDCG on valid; empty in files of before it.
    systems: rows beside the published ones (all beams, likelihood, calibrated
      fusion, ...), on the same users.
    fitted: what valid taught each of them, by its name.
    tests: paired tests between rows of test, corrected as one family
      (results/paired_tests.py); empty in files of before them.
    confidence: how surely lists hold the target, by the name of their ranks
      (results/confidence.py); empty in files of before it.
    base_origin: what the base was made from, where it is a dequantised copy
      (workdir/origins.py); else empty.
    num_users: by split, of those that the data tell apart; empty in files of
      before it.
  """

  num_items: int
  num_examples: Mapping[str, int]
  fingerprints: Mapping[str, Any]
  results: Sequence[rows.MetricRow]
  baselines: Sequence[rows.BaselineRow]
  gamma_curves: Mapping[str, Curve]
  gamma_pairs: Mapping[str, Pairs]
  bm25: Mapping[str, float] = dataclasses.field(default_factory=dict)
  systems: Sequence[rows.BaselineRow] = ()
  fitted: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  tests: Sequence[comparisons.Comparison] = ()
  base_origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  confidence: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  num_users: Mapping[str, int] = dataclasses.field(default_factory=dict)

  def units(self, split: str) -> int | None:
    """Returns how many independent draws a split is: users, else rows."""
    return self.num_users.get(split, self.num_examples.get(split))

  def who(self, split: str) -> str:
    """Returns whom a split is of: "1,000 test users", "9 test rows of 2 users".

    Of data that don't say who is who (format `bigrec`), and of an evaluation
    that didn't, each row counts as a user's only one.
    """
    rows, users = self.num_examples[split], self.num_users.get(split)
    if users is None:
      return f"{rows:,} {split} rows"
    if users == rows:
      return f"{rows:,} {split} users"
    return f"{rows:,} {split} rows of {users:,} users"

  def rows_of(self, **wanted: str) -> Iterator[rows.MetricRow]:
    """Yields the results whose named fields have these values."""
    for row in self.results:
      if all(getattr(row, name) == value for name, value in wanted.items()):
        yield row

  @property
  def chosen_by(self) -> str:
    """The cutoff of the NDCG on valid by which injections are chosen.

    20, or the largest reported where it isn't one of them.
    """
    cutoffs = self.results[0].ndcg if self.results else {}
    return "20" if "20" in cutoffs else max(cutoffs, key=int, default="20")

  def baselines_of(self, split: str) -> Iterator[rows.BaselineRow]:
    """Yields the baselines of a split."""
    return (row for row in self.baselines if row.split == split)

  def to_json(self) -> dict[str, Any]:
    """Returns the content of the file."""
    return {
      "schema": fields.SCHEMA,
      "num_items": self.num_items,
      "num_examples": self.num_examples,
      "fingerprints": self.fingerprints,
      "results": [row.to_json() for row in self.results],
      "baselines": [row.to_json() for row in self.baselines],
      "gamma_curves": {k: v.to_json() for k, v in self.gamma_curves.items()},
      "gamma_pairs": {k: v.to_json() for k, v in self.gamma_pairs.items()},
      "bm25": self.bm25,
      "systems": [row.to_json() for row in self.systems],
      "fitted": self.fitted,
      "tests": [row.to_json() for row in self.tests],
      **({"base_origin": self.base_origin} if self.base_origin else {}),
      **({"confidence": self.confidence} if self.confidence else {}),
      **({"num_users": self.num_users} if self.num_users else {}),
    }

  @classmethod
  def from_json(cls, value: Any, where: str) -> "GroundFile":
    """Reads the content of a file; `where` is its name and a colon.

    Raises:
      UserError: a field is missing or of another kind.
    """
    file = fields.Fields(value, where)
    fields.check_schema(file)
    results = fields.sequence(rows.MetricRow.from_json)
    baselines = fields.sequence(rows.BaselineRow.from_json)
    curves = fields.mapping(Curve.from_json)
    return cls(
      file.get("num_items", fields.whole),
      file.get("num_examples", fields.mapping(fields.whole)),
      file.get("fingerprints", fields.of_object),
      file.get("results", results),
      file.optional("baselines", baselines, ()),
      file.optional("gamma_curves", curves, {}),
      file.optional("gamma_pairs", fields.mapping(Pairs.from_json), {}),
      file.optional("bm25", fields.mapping(fields.number), {}),
      file.optional("systems", baselines, ()),
      file.optional("fitted", fields.of_object, {}),
      file.optional(
        "tests", fields.sequence(comparisons.Comparison.from_json), ()
      ),
      file.optional("base_origin", origins.checked, {}),
      file.optional("confidence", fields.of_object, {}),
      file.optional("num_users", fields.mapping(fields.whole), {}),
    )


def read(path: pathlib.Path) -> GroundFile:
  """Reads metrics/ground_eval.json, of this version or of any before it.

  Raises:
    UserError: it is missing, damaged, of a later version, or a row isn't one.
  """
  return GroundFile.from_json(storage.read_json(path), f"{path}:")


def _same_length(
  where: str, series: Mapping[str, Sequence[float]], length: int
) -> None:
  """Raises UserError for a series of another length than the gammas."""
  for key, values in series.items():
    if len(values) != length:
      raise errors.UserError(
        f"{fields.inside(where, key)}: {len(values)} values found, {length},"
        " one for each gamma, expected"
      )
