"""Histories with 20 candidates each, of which one is the next item.

Candidates are drawn once for each row of the prepared data: they depend on
the seed and the row, not on how many rows are used. The published loader draws
them anew whenever a row is read, in evaluation too.
"""

import dataclasses
import functools
import hashlib

import numpy as np

from bigrec_jax import errors
from bigrec_jax.data.prepared.examples import Examples
from bigrec_jax.workdir import fingerprints

_SPLITS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
  """N examples and their candidates.

  Attributes:
    examples: those with a history that is long enough.
    kept: [N] int64, their places among the rows of the configuration.
    candidates: [N, C] int32, catalogue rows, the target among them.
  """

  examples: Examples
  kept: np.ndarray
  candidates: np.ndarray

  def __len__(self) -> int:
    return len(self.examples)

  @functools.cached_property
  def fingerprint(self) -> str:
    """Names examples and candidates in their order."""
    digest = hashlib.sha256(np.ascontiguousarray(self.candidates).data)
    return fingerprints.of_value(
      [self.examples.fingerprint, self.candidates.shape, digest.hexdigest()]
    )


def draw(
  examples: Examples, groups: np.ndarray, count: int, least: int, seed: int
) -> Samples:
  """Returns the samples of a split.

  The others are no item of the history and not the target, and all candidates
  differ in their title.

  Args:
    examples: of the split.
    groups: [I], equal for items with one title.
    count: C.
    least: items of a history; shorter ones are left out.
    seed: of the candidates.

  Raises:
    UserError: the catalogue has too few titles.
  """
  kept = long_enough(examples, least)
  own = examples.take(kept)
  longest = examples.history.shape[1]
  titles = len(np.unique(groups))
  if titles < count + longest:
    raise errors.UserError(
      f"config.task.choose.candidates: {count} found, but the catalogue has"
      f" {titles} titles and histories up to {longest} items: at most"
      f" {max(titles - longest, 0)} expected"
    )
  split = _SPLITS.index(examples.split)
  found = np.zeros((len(own), count), np.int32)
  for n, row in enumerate(own.rows):
    rng = np.random.default_rng([seed, split, int(row)])
    found[n] = _drawn(rng, own.history[n], int(own.target[n]), groups, count)
  return Samples(own, kept, found)


def long_enough(examples: Examples, least: int) -> np.ndarray:
  """Returns which rows have at least so many items in their history, [n]."""
  return np.flatnonzero((examples.history >= 0).sum(axis=1) >= least)


def all_of(examples: Examples) -> Samples:
  """Returns all examples of a split; the target is the only candidate."""
  kept = np.arange(len(examples))
  return Samples(examples, kept, examples.target[:, None].astype(np.int32))


def _drawn(
  rng: np.random.Generator,
  history: np.ndarray,
  target: int,
  groups: np.ndarray,
  count: int,
) -> np.ndarray:
  """Returns a row's candidates [C] in a random order."""
  taken = {int(groups[item]) for item in history if item >= 0}
  taken.add(int(groups[target]))
  found = [target]
  while len(found) < count:
    for item in rng.integers(len(groups), size=2 * count).tolist():
      if len(found) < count and int(groups[item]) not in taken:
        taken.add(int(groups[item]))
        found.append(item)
  return rng.permutation(np.array(found, np.int32))
