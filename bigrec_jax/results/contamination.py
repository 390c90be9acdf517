"""Can the base recite titles? What a probe of it measured, and its file.

Each title is cut in two halves of tokens. The base writes on from the first
half, and says how probable second halves are behind it. Titles go in pairs
whose second halves are as long as each other, or nearly: the other title's
half is the control, which has the same words in the same style, but does not
belong there.

Letters: N titles, 2 a pair; M pairs.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigrec_jax.results import significance
from bigrec_jax.workdir import fields, storage


@dataclasses.dataclass(frozen=True)
class Measure:
  """What a title's own half has, and what the exchanged one has.

  Attributes:
    own: mean over titles.
    exchanged: likewise, of the control.
    difference: of the two.
    ci95: [low, high] of the difference, bootstrap over pairs.
    p: two-sided, sign flips of the pairs' differences.
  """

  own: float
  exchanged: float
  difference: float
  ci95: Sequence[float]
  p: float

  @classmethod
  def of(
    cls, own: np.ndarray, exchanged: np.ndarray, effort: significance.Effort
  ) -> "Measure":
    """Measures titles [N], a pair beside each other."""
    # The two titles of a pair share their halves: one unit, not two.
    found = significance.compare_gains(
      _of_pairs(own), _of_pairs(exchanged), effort
    )
    return cls(
      float(own.mean()),
      float(exchanged.mean()),
      found.difference,
      list(found.ci95),
      found.p,
    )

  @classmethod
  def from_json(cls, value: Any, where: str) -> "Measure":
    """Reads an object of the file; raises UserError where it isn't one."""
    row = fields.Fields(value, where)
    return cls(
      row.get("own", fields.number),
      row.get("exchanged", fields.number),
      row.get("difference", fields.number),
      row.get("ci95", fields.interval),
      row.get("p", fields.number),
    )


@dataclasses.dataclass(frozen=True)
class Probe:
  """The content of metrics/contamination.json.

  Attributes:
    num_titles: probed.
    eligible: titles of the catalogue with tokens enough to be cut.
    exact: share of titles whose second half is written token by token.
    agreement: mean share of the second half's tokens that are written in
      their places.
    log_probability: mean log-probability of a second half's token, in nats,
      behind its own first half and behind the other one.
    recited: some titles that were completed exactly.
    fingerprints: of the base and the catalogue.
  """

  num_titles: int
  eligible: int
  exact: Measure
  agreement: Measure
  log_probability: Measure
  recited: Sequence[str]
  fingerprints: Mapping[str, Any]

  def write(self, path: pathlib.Path) -> None:
    """Writes the file atomically."""
    content = {"schema": fields.SCHEMA} | dataclasses.asdict(self)
    storage.write_json(path, content)


def read(path: pathlib.Path) -> Probe:
  """Reads metrics/contamination.json.

  Raises:
    UserError: it is missing, damaged, of a later version, or a field is of
      another kind.
  """
  file = fields.Fields(storage.read_json(path), f"{path}:")
  fields.check_schema(file)
  return Probe(
    file.get("num_titles", fields.count),
    file.get("eligible", fields.count),
    file.get("exact", Measure.from_json),
    file.get("agreement", Measure.from_json),
    file.get("log_probability", Measure.from_json),
    file.get("recited", fields.sequence(fields.text)),
    file.get("fingerprints", fields.of_object),
  )


def _of_pairs(values: np.ndarray) -> np.ndarray:
  return values.reshape(-1, 2).mean(axis=1)


def pairs(lengths: np.ndarray, count: int, seed: int) -> np.ndarray:
  """Returns the titles [N] of a sample, the two of a pair side by side.

  Args:
    lengths: [E] tokens of the second half of each title that can be cut.
    count: how many at most; odd ones are one less.
    seed: of the sample.
  """
  rng = np.random.default_rng(seed)
  chosen = rng.permutation(len(lengths))[:count]
  chosen = chosen[: len(chosen) // 2 * 2]
  # Neighbours in this order are as long as each other, or nearly.
  return chosen[np.argsort(lengths[chosen], kind="stable")]


def other_of_pair(count: int) -> np.ndarray:
  """Returns [N] the place of each title's partner: 1, 0, 3, 2, ..."""
  return np.arange(count) ^ 1


def agreement(
  written: Sequence[Sequence[int]], halves: Sequence[Sequence[int]]
) -> np.ndarray:
  """Returns [N] the share of each half's tokens that stand in their places."""
  return np.array(
    [
      sum(a == b for a, b in zip(own, half, strict=False)) / len(half)
      for own, half in zip(written, halves, strict=True)
    ],
    np.float64,
  )
