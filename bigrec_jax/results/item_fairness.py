"""Are groups of items recommended as often as they were chosen before?

Item-side fairness as IFairLRS measures it (Jiang et al., WWW 2024, arXiv
2402.17363; JiangM-C/IFairLRS, code/evaluate_all.py, 0936098, which writes the
counts): of a group G, GH is its share of all groups' items in the histories
of the users, GR its share in the first K of their lists, and GU = GR - GH; an
item counts in each group that it is in. MGU@K is the mean of |GU| over groups,
DGU@K the largest GU less the smallest: 0 where lists have what histories have.

Letters: N users, G groups, S draws.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigrec_jax.results import clusters
from bigrec_jax.workdir import fields, storage

_SHARES = fields.mapping(fields.number)


@dataclasses.dataclass(frozen=True)
class Row:
  """A ranker's lists and one way to group items.

  Attributes:
    ranker: as paired tests name rows: bigrec+cf:single_gamma, most_pop, ...
    grouping: popularity or category.
    k: length of the lists.
    shares: GR of each group.
    mgu: mean unfairness.
    dgu: largest difference of unfairness.
    ci95: [low, high] of mgu and dgu, by bootstrap over users.
  """

  ranker: str
  grouping: str
  k: int
  shares: Mapping[str, float]
  mgu: float
  dgu: float
  ci95: Mapping[str, Sequence[float]]

  @classmethod
  def from_json(cls, value: Any, where: str) -> "Row":
    """Reads an object of the file.

    Raises:
      UserError: a field is missing or of another kind.
    """
    row = fields.Fields(value, where)
    return cls(
      row.get("ranker", fields.text),
      row.get("grouping", fields.text),
      row.get("k", fields.count),
      row.get("shares", _SHARES),
      row.get("mgu", fields.number),
      row.get("dgu", fields.number),
      row.get("ci95", fields.mapping(fields.interval)),
    )


@dataclasses.dataclass(frozen=True)
class Quality:
  """What a ranker's lists are like beside being right (list_quality.py).

  Attributes:
    ranker: as of `Row`.
    k: length of the lists.
    values: of each measure by its name, but for what no list has.
  """

  ranker: str
  k: int
  values: Mapping[str, float]

  @classmethod
  def from_json(cls, value: Any, where: str) -> "Quality":
    """Reads an object of the file; raises UserError as `Row` does."""
    row = fields.Fields(value, where)
    return cls(
      row.get("ranker", fields.text),
      row.get("k", fields.count),
      row.get("values", fields.mapping(fields.number)),
    )


@dataclasses.dataclass(frozen=True)
class FairnessFile:
  """metrics/item_fairness.json.

  Attributes:
    split: whose users.
    n: how many.
    histories: by grouping, GH of each group.
    rows: of every ranker, grouping and K.
    quality: of every ranker and K; empty in files of before it.
  """

  split: str
  n: int
  histories: Mapping[str, Mapping[str, float]]
  rows: Sequence[Row]
  quality: Sequence[Quality] = ()


def counts(items: np.ndarray, members: np.ndarray) -> np.ndarray:
  """Returns how many of each user's items are in each group [N, G] float64.

  Args:
    items: [N, K] catalogue rows, padded with -1.
    members: [I, G] bool.
  """
  found = np.zeros((len(items), members.shape[1]))
  for column in items.T:
    there = column >= 0
    found[there] += members[column[there]]
  return found


def unfairness(listed: np.ndarray, had: np.ndarray) -> np.ndarray:
  """Returns GU [..., G] of counts [..., G]; shares of nothing are 0."""
  return shares(listed) - shares(had)


def shares(found: np.ndarray) -> np.ndarray:
  """Returns counts [..., G] over their sums."""
  total = found.sum(axis=-1, keepdims=True)
  return np.divide(found, total, out=np.zeros_like(found), where=total > 0)


def row(
  ranker: str,
  grouping: str,
  groups: Sequence[str],
  lists: np.ndarray,
  had: np.ndarray,
  members: np.ndarray,
  samples: int,
  seed: int,
  users: clusters.Clusters | None = None,
) -> Row:
  """Measures the lists of a ranker.

  Args:
    ranker: its name.
    grouping: its name.
    groups: names [G].
    lists: [N, K] catalogue rows, padded with -1.
    had: [N, G] of `counts` of the users' histories.
    members: [I, G] bool.
    samples: S, of the bootstrap.
    seed: of numpy's default generator.
    users: whose rows these are, where somebody has several.
  """
  listed = counts(lists, members)
  own = unfairness(listed.sum(axis=0), had.sum(axis=0))
  rng, units = np.random.default_rng(seed), len(lists)
  own_listed, own_had = listed, had
  if users is not None:
    units = len(users)
    own_listed, own_had = users.sums(listed.T).T, users.sums(had.T).T
  drawn = np.stack(
    [
      unfairness(times @ own_listed, times @ own_had)
      for times in (
        np.bincount(rng.integers(0, units, units), minlength=units)
        for _ in range(samples)
      )
    ]
  )  # [S, G]
  both = {"mgu": _mgu(drawn), "dgu": _dgu(drawn)}
  shown = shares(listed.sum(axis=0))
  return Row(
    ranker,
    grouping,
    lists.shape[1],
    dict(zip(groups, shown.tolist(), strict=True)),
    float(_mgu(own)),
    float(_dgu(own)),
    {name: np.percentile(x, [2.5, 97.5]).tolist() for name, x in both.items()},
  )


def _mgu(own: np.ndarray) -> np.ndarray:
  return np.abs(own).mean(axis=-1)


def _dgu(own: np.ndarray) -> np.ndarray:
  return own.max(axis=-1) - own.min(axis=-1)


def write(path: pathlib.Path, found: FairnessFile) -> None:
  """Writes metrics/item_fairness.json atomically."""
  value = {"schema": fields.SCHEMA, **dataclasses.asdict(found)}
  storage.write_json(path, value)


def read(path: pathlib.Path) -> FairnessFile:
  """Returns the content of metrics/item_fairness.json.

  Raises:
    UserError: it is missing, damaged or of another version.
  """
  file = fields.Fields(storage.read_json(path), f"{path}:")
  fields.check_schema(file)
  return FairnessFile(
    file.get("split", fields.text),
    file.get("n", fields.count),
    file.get("histories", fields.mapping(_SHARES)),
    file.get("rows", fields.sequence(Row.from_json)),
    file.optional("quality", fields.sequence(Quality.from_json), ()),
  )
