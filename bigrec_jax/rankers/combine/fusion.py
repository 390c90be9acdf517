"""Fused scores of candidates: by reciprocal places, or with fitted weights.

Reciprocal-rank fusion (Cormack, Clarke and Buettcher 2009, SIGIR) adds
1 / (60 + place) over the parts' lists and has nothing to fit. The calibrated
one is a linear score of the features of a candidate, with weights that depend
on few numbers of the user; `fusion_fit` finds them on valid.

Letters: n users, S slots, F columns, G gates, A = 1 + G.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from bigrec_jax import errors
from bigrec_jax.rankers import bm25
from bigrec_jax.rankers.combine import candidates, features
from bigrec_jax.workdir import fields

CALIBRATED, RECIPROCAL = "calibrated fusion", "reciprocal-rank fusion"
_CONSTANT = 60  # As published; places from 1.
# A standardised number beyond this is one that valid knew nothing like.
_FARTHEST = 5.0
_SERIES = fields.sequence(fields.number)


@dataclasses.dataclass(frozen=True)
class Standard:
  """Names of numbers, and what makes each one of mean 0 and deviation 1.

  Attributes:
    names: of F numbers.
    mean: [F].
    deviation: [F], above 0.
  """

  names: Sequence[str]
  mean: Sequence[float]
  deviation: Sequence[float]

  def __call__(self, numbers: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns [..., F] float32.

    Args:
      numbers: by name; all of `names` are expected among them.

    Raises:
      UserError: one is missing: the fusion is of another version.
    """
    if missing := [name for name in self.names if name not in numbers]:
      raise errors.UserError(
        f"a fusion that reads {missing[0]!r} found, which there is not;"
        " --mode=ground_eval fits one of what there is"
      )
    shape = next(iter(numbers.values())).shape
    found = np.empty((*shape, len(self.names)), np.float32)
    of_all = zip(self.names, self.mean, self.deviation, strict=True)
    for n, (name, mean, deviation) in enumerate(of_all):
      own = (numbers[name] - np.float64(mean)) / deviation
      found[..., n] = np.clip(own, -_FARTHEST, _FARTHEST)
    return found

  @classmethod
  def of(cls, numbers: Mapping[str, np.ndarray]) -> Self:
    """Returns the statistics of numbers [N] each, without constant ones."""
    kept = {}
    for name, own in numbers.items():
      own = own.astype(np.float64)
      mean, deviation = float(own.mean()), float(own.std())
      if deviation > 1e-9 * max(1.0, abs(mean)):
        kept[name] = mean, deviation
    means, deviations = zip(*kept.values(), strict=True) if kept else ((), ())
    return cls(tuple(kept), means, deviations)

  @classmethod
  def from_json(cls, value: Any, where: str) -> Self:
    """Reads what `dataclasses.asdict` made."""
    own = fields.Fields(value, where)
    found = cls(
      own.get("names", fields.sequence(fields.text)),
      own.get("mean", _SERIES),
      own.get("deviation", _SERIES),
    )
    if not len(found.names) == len(found.mean) == len(found.deviation):
      raise errors.UserError(f"{where}: lists of unequal lengths found")
    if any(own <= 0 for own in found.deviation):
      raise errors.UserError(f"{where}: a deviation of 0 or less found")
    return found


@dataclasses.dataclass(frozen=True)
class Fusion:
  """A score of candidates, fitted or not; made of JSON's kinds alone.

  Attributes:
    name: calibrated fusion or reciprocal-rank fusion.
    texts: first or all: which of a user's texts candidates come from.
    parts: that order the catalogue: text, CF models, BM25, popularity.
    base: the part that decides ties and orders all other items.
    columns: of the candidates; of reciprocal-rank fusion none.
    gates: of the users.
    weights: [A][F], the first row of everybody, then one a gate; empty where
      the base alone orders.
    likelihood: of how many titles of a user the model was asked.
    words: what BM25 of the history's titles scores with; None where it is no
      part.
  """

  name: str
  texts: str
  parts: Sequence[str]
  base: str
  columns: Standard = Standard((), (), ())
  gates: Standard = Standard((), (), ())
  weights: Sequence[Sequence[float]] = ()
  likelihood: int = 0
  words: bm25.Settings | None = None

  def scores(
    self,
    found: candidates.Candidates,
    known: features.Features,
    items: features.Items,
  ) -> np.ndarray:
    """Returns the scores [n, S] float64, the highest first.

    Args:
      found: candidates of n users.
      known: their features.
      items: of the catalogue.
    """
    if self.name == RECIPROCAL:
      return _reciprocal(found, items)
    if not self.weights:  # The base alone orders.
      return np.zeros(found.items.shape)
    return self.linear(self.columns(known.columns), self.gates(known.gates))

  def linear(self, columns: np.ndarray, gates: np.ndarray) -> np.ndarray:
    """Returns the scores [n, S] of columns [n, S, F] and gates [n, G].

    Without BLAS: a user's numbers must not hang on who else is asked for.
    """
    if not self.weights:
      return np.zeros(columns.shape[:2])
    weights = np.array(self.weights)
    mixed = np.broadcast_to(weights[0], (len(columns), weights.shape[1]))
    if len(weights) > 1:
      mixed = mixed + np.einsum("ng,gf->nf", gates, weights[1:], optimize=False)
    return np.einsum("nsf,nf->ns", columns, mixed, optimize=False)

  def to_json(self) -> dict[str, Any]:
    """Returns an object that `from_json` reads."""
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, value: Any, where: str) -> Self:
    """Reads a score; raises UserError where it isn't one."""
    own = fields.Fields(value, where)
    found = cls(
      own.get("name", fields.text),
      own.get("texts", fields.text),
      own.get("parts", fields.sequence(fields.text)),
      own.get("base", fields.text),
      own.get("columns", Standard.from_json),
      own.get("gates", Standard.from_json),
      own.get("weights", fields.sequence(_SERIES)),
      own.get("likelihood", fields.count),
      own.optional("words", _settings, None),  # Fusions of before have none.
    )
    wide = {len(row) for row in found.weights} - {len(found.columns.names)}
    rows = {0, 1, 1 + len(found.gates.names)}
    if wide or len(found.weights) not in rows or found.base not in found.parts:
      raise errors.UserError(f"{where}: its weights don't fit its columns")
    if features.WORDS in found.parts and found.words is None:
      raise errors.UserError(
        f"{where}: a part bm25 without words, its k1 and b, found"
      )
    return found


def _settings(value: Any, where: str) -> bm25.Settings | None:
  """Reads the parameters of BM25, or null."""
  if value is None:
    return None
  own = fields.Fields(value, where)
  k1, b = own.get("k1", fields.number), own.get("b", fields.number)
  if k1 < 0 or not 0 <= b <= 1:
    raise fields.refuse(where, value, "k1 of at least 0 and b from 0 to 1")
  return bm25.Settings(k1, b)


def _reciprocal(
  found: candidates.Candidates, items: features.Items
) -> np.ndarray:
  """Returns [n, S] the sums of 1 / (60 + place) over all parts."""

  def share(places: np.ndarray, length: int) -> np.ndarray:
    return np.where(places < length, 1.0 / (_CONSTANT + 1.0 + places), 0.0)

  total = share(found.places[:, :, 0], candidates.FIRST_TEXT)
  for model in range(len(items.models)):
    total = total + share(found.cf_places[:, :, model], candidates.CF)
  if items.popularity is not None:
    places = candidates.popular_places(items.popularity)
    total = total + share(
      places[np.maximum(found.items, 0)], candidates.POPULAR
    )
  return total
