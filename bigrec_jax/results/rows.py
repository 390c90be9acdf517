"""Rows of metrics as objects: what every file under `metrics/` holds.

A row is made by who measures, kept as JSON and read back as the same object;
a file says in `schema` which version of the rows it holds. Files of before
that key are read too: the rows are the same.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from bigrec_jax import errors
from bigrec_jax.workdir import arrays, fields, storage

T = TypeVar("T")

# {"1": value, ...}: cutoffs are the texts that JSON makes of them.
ByCutoff = Mapping[str, float]
# {"ndcg": ..., "hr": ...}: a value, an interval or a gamma for each cutoff.
Intervals = Mapping[str, Mapping[str, Sequence[float]]]
# No gamma; one; one for each metric and cutoff; one for each injected part.
Gamma = None | float | Mapping[str, Any]

_FEW_METRICS = 6  # Side by side in any table.
_NUMBERS = fields.mapping(fields.number)


def by_cutoff(
  read: Callable[[Any, str], T],
) -> Callable[[Any, str], dict[str, T]]:
  """Returns a reader of objects of a value, as `read` reads it, a cutoff."""
  read_all = fields.mapping(read)

  def reader(value: Any, where: str) -> dict[str, T]:
    for key in fields.of_object(value, where):
      if not (key.isascii() and key.isdecimal() and len(key) < 10):
        raise fields.refuse(where, key, "a cutoff such as '10'")
    return read_all(value, where)

  return reader


_BY_CUTOFF = by_cutoff(fields.number)
INTERVALS = fields.mapping(by_cutoff(fields.interval))


@dataclasses.dataclass(frozen=True)
class MetricRow:
  """A row of `results` in metrics/ground_eval.json.

  Attributes:
    split: valid or test.
    injection: none, popularity, cf or popularity+cf.
    protocol: how gamma was chosen: bigrec, single_gamma or two_gammas.
    gamma: of `bigrec` {"ndcg": {"1": gamma, ...}, "hr": {...}}, of
      `single_gamma` a number, of `two_gammas` {"popularity": gamma, "cf":
      gamma}; None where nothing is injected.
    ndcg: by cutoff.
    hr: by cutoff.
    ci95: {"ndcg": {"1": [low, high], ...}, "hr": {...}}; empty = not known.
  """

  split: str
  injection: str
  protocol: str
  gamma: Gamma
  ndcg: ByCutoff
  hr: ByCutoff
  ci95: Intervals

  @property
  def gamma_of_parts(self) -> Mapping[str, float]:
    """The gamma of each part, of a row with one for each; else nothing."""
    gamma = self.gamma if isinstance(self.gamma, Mapping) else {}
    return gamma if "popularity" in gamma else {}

  def to_json(self) -> dict[str, Any]:
    """Returns the object of the file."""
    return _json(self)

  @classmethod
  def from_json(cls, value: Any, where: str) -> "MetricRow":
    """Reads an object of the file; `where` names it in messages.

    Raises:
      UserError: a field is missing or of another kind.
    """
    row = fields.Fields(value, where)
    return cls(
      row.get("split", fields.text),
      row.get("injection", fields.text),
      row.get("protocol", fields.text),
      row.optional("gamma", _gamma, None),
      row.get("ndcg", _BY_CUTOFF),
      row.get("hr", _BY_CUTOFF),
      row.optional("ci95", INTERVALS, {}),
    )


@dataclasses.dataclass(frozen=True)
class BaselineRow:
  """A row of `baselines` in metrics/ground_eval.json.

  Attributes:
    name: most_pop, random, cf, oracle, ...
    split: valid or test.
    ndcg: by cutoff.
    hr: by cutoff.
    ci95: as in `MetricRow`.
  """

  name: str
  split: str
  ndcg: ByCutoff
  hr: ByCutoff
  ci95: Intervals

  def to_json(self) -> dict[str, Any]:
    """Returns the object of the file."""
    return _json(self)

  @classmethod
  def from_json(cls, value: Any, where: str) -> "BaselineRow":
    """Reads an object of the file; raises UserError as `MetricRow` does."""
    row = fields.Fields(value, where)
    return cls(
      row.get("name", fields.text),
      row.get("split", fields.text),
      row.get("ndcg", _BY_CUTOFF),
      row.get("hr", _BY_CUTOFF),
      row.optional("ci95", INTERVALS, {}),
    )


@dataclasses.dataclass(frozen=True)
class TaskRow:
  """A row of `results` in metrics/<task>.json, of whatever task.

  Attributes:
    split: valid or test.
    system: what was measured, such as tallrec or sasrec.
    metrics: by name, such as auc or recall@10.
    ci95: [low, high] by name, for those that have one.
    n: examples measured.
    seeds: of the runs that the metrics are means over.
    users: whose examples these are, where somebody has several; None = each is
      a user's only one, or nobody knows.
    each: values [N] of every example by name, from which the metrics are made:
      rank (0 = best), rank@10 where lists differ by their length, right, score,
      label, error. Not in the JSON: metrics/<task>.npz has them.
  """

  split: str
  system: str
  metrics: Mapping[str, float]
  ci95: Mapping[str, Sequence[float]]
  n: int
  seeds: Sequence[int]
  users: int | None = None
  each: Mapping[str, np.ndarray] = dataclasses.field(
    default_factory=dict, compare=False, repr=False
  )

  def to_json(self) -> dict[str, Any]:
    """Returns the object of the file."""
    found = {key: own for key, own in _json(self).items() if key != "each"}
    if self.users is None:
      del found["users"]
    return found

  @classmethod
  def from_json(cls, value: Any, where: str) -> "TaskRow":
    """Reads an object of the file; raises UserError as `MetricRow` does."""
    row = fields.Fields(value, where)
    return cls(
      row.get("split", fields.text),
      row.get("system", fields.text),
      row.get("metrics", _NUMBERS),
      row.get("ci95", fields.mapping(fields.interval)),
      row.get("n", fields.whole),
      row.get("seeds", fields.sequence(fields.whole)),
      row.optional("users", fields.whole, None),
    )


def alike(found: Sequence[TaskRow]) -> list[list[TaskRow]]:
  """Returns rows in groups that share a table, in their order.

  All are in one group where they have few metrics. Else rows with a metric in
  common are, and so are all that are linked by such rows.
  """
  if len({name for row in found for name in row.metrics}) <= _FEW_METRICS:
    return [list(found)]
  groups: list[tuple[set[str], list[int]]] = []
  for place, row in enumerate(found):
    names, places = set(row.metrics), [place]
    others = []
    for group in groups:
      if group[0] & names:
        names, places = names | group[0], group[1] + places
      else:
        others.append(group)
    groups = [*others, (names, places)]
  ordered = sorted(sorted(places) for _, places in groups)
  return [[found[place] for place in places] for places in ordered]


def write_task(path: pathlib.Path, rows: Sequence[TaskRow]) -> None:
  """Writes metrics/<task>.json atomically."""
  results = [row.to_json() for row in rows]
  storage.write_json(path, {"schema": fields.SCHEMA, "results": results})


def write_each(path: pathlib.Path, rows: Sequence[TaskRow]) -> None:
  """Writes the values of every example, metrics/<task>.npz, atomically.

  An array is called <split>/<system>/<name>.
  """
  found = {
    f"{row.split}/{row.system}/{name}": values
    for row in rows
    for name, values in row.each.items()
  }
  with storage.atomic_path(path) as temporary, open(temporary, "wb") as file:
    # numpy's stubs take any name for its own keyword allow_pickle.
    np.savez_compressed(file, **found)  # type: ignore[arg-type]


def read_each(path: pathlib.Path) -> dict[tuple[str, str, str], np.ndarray]:
  """Returns values [N] by (split, system, name).

  Raises:
    UserError: the file is missing or damaged, or a name isn't of this form.
  """
  found = {}
  for key, values in arrays.read_npz(path).items():
    split, _, rest = key.partition("/")
    system, _, name = rest.rpartition("/")
    if not (split and system and name):
      raise errors.UserError(
        f"{path}: array {key!r} found, <split>/<system>/<name> expected"
      )
    found[split, system, name] = values
  return found


def read_task(path: pathlib.Path) -> tuple[TaskRow, ...]:
  """Returns the rows of metrics/<task>.json.

  Raises:
    UserError: the file is missing, damaged or of another version, or a row
      isn't one.
  """
  file = fields.Fields(storage.read_json(path), f"{path}:")
  fields.check_schema(file)
  return file.get("results", fields.sequence(TaskRow.from_json))


def _gamma(value: Any, where: str) -> Gamma:
  """Reads a gamma of any of its forms."""
  if value is None or isinstance(value, (int, float)):
    return None if value is None else fields.number(value, where)
  if isinstance(value, Mapping) and set(value) == {"ndcg", "hr"}:
    return fields.mapping(_BY_CUTOFF)(value, where)
  if isinstance(value, Mapping) and set(value) == {"popularity", "cf"}:
    return _NUMBERS(value, where)
  raise fields.refuse(
    where, value, "null, a number, {ndcg, hr} or {popularity, cf}"
  )


def _json(row: Any) -> dict[str, Any]:
  """Returns the fields of a flat row in their order."""
  return {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}
