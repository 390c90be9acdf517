"""Samples of several prepared data sets as one source, with mixing weights.

A weight says how often an epoch goes through a set's samples: 1 is once, .5
half of them (and the other half in the next epoch), 2 twice. So a set of n
samples gives round(weight n) of them to every epoch, and all have been given
equally often, but for one, at any time. Which ones is drawn by seed; nothing
else is, so a stream that goes on at some step needs no memory of the others.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from bigrec_jax.data.text import source as source_lib, views


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
  """Several sources as one; a `source.Scheduled`.

  It is as long as an epoch. Text `k S + s` is text k of source s, of S.

  Attributes:
    sources: of one split each, the first of the data set that is evaluated.
    weights: how often an epoch goes through each.
    batch_size: samples of an optimizer step.
    seed: of which samples an epoch takes.
  """

  sources: tuple[source_lib.TextSource, ...]
  weights: tuple[float, ...]
  batch_size: int
  seed: int

  @property
  def split(self) -> str:
    """Of the first source."""
    return self.sources[0].split

  @property
  def fingerprints(self) -> tuple[str, ...]:
    """Of all sources, with their weights."""
    return tuple(
      name
      for source, weight in zip(self.sources, self.weights, strict=True)
      for name in (*source.fingerprints, str(weight))
    )

  @functools.cached_property
  def shares(self) -> np.ndarray:
    """[S] int64, samples of each source in an epoch."""
    sizes = np.array([len(source) for source in self.sources])
    return np.rint(sizes * np.array(self.weights)).astype(np.int64)

  def __len__(self) -> int:
    """Returns how many samples an epoch has."""
    return int(self.shares.sum())

  def at_step(
    self, step: int, num_steps: int, numbers: Sequence[int]
  ) -> Sequence[int]:
    """Returns which texts a step reads; see `source.Scheduled`."""
    per_epoch = -(-len(self) // self.batch_size)
    which, found = self.taken(step // per_epoch, np.asarray(numbers))
    for place, source in enumerate(self.sources):
      own = which == place
      if isinstance(source, source_lib.Scheduled):
        found[own] = source.at_step(step, num_steps, found[own].tolist())
    return (found * len(self.sources) + which).tolist()

  def taken(
    self, epoch: int, places: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns sources and samples, int [N] each, at some places of an epoch.

    Args:
      epoch: 0, 1, ...
      places: int [N], each below the length.
    """
    ends = np.cumsum(self.shares)
    which = np.searchsorted(ends, places, side="right")
    found = np.empty(len(places), np.int64)
    for source in np.unique(which):
      own = np.flatnonzero(which == source)
      share, size = int(self.shares[source]), len(self.sources[source])
      # Places of an endless walk through the source, in a new order each time.
      walked = epoch * share + places[own] - (ends[source] - share)
      turns = walked // size
      for turn in np.unique(turns):
        order = _order(self.seed, int(source), int(turn), size)
        here = turns == turn
        found[own[here]] = order[walked[here] % size]
    return which, found

  def _at(self, n: int) -> tuple[source_lib.TextSource, int]:
    """Returns the source of text n, and its number there."""
    number, place = divmod(n, len(self.sources))
    source = self.sources[place]
    if not isinstance(source, source_lib.Scheduled):
      number %= len(source)  # Whoever asks for a sample of all may ask so.
    return source, number

  def text(self, n: int) -> source_lib.Text:
    """Returns how text n reads, by its own set's prompt."""
    source, number = self._at(n)
    return source.text(number)

  def name(self, n: int) -> str:
    """Returns e.g. "train row 17", "train row 3 of set 2"."""
    source, number = self._at(n)
    place = n % len(self.sources)
    own = source.name(number)
    return f"{own} of set {place + 1}" if place else own

  def content(self, n: int) -> dict[str, Any]:
    """Returns what its own source does."""
    source, number = self._at(n)
    return source.content(number)

  def target(self, n: int) -> source_lib.Text:
    """Returns the target of text n on its own."""
    source, number = self._at(n)
    return _targets(source).target(number)

  def group(self, n: int) -> str:
    """Returns its own source's group, apart from those of other sets."""
    source, number = self._at(n)
    return f"{n % len(self.sources)}:{_targets(source).group(number)}"


@functools.lru_cache(maxsize=16)
def _order(seed: int, source: int, turn: int, size: int) -> np.ndarray:
  """Returns the order of a source's samples in one walk through them."""
  return np.random.default_rng([seed, source, turn]).permutation(size)


def _targets(source: source_lib.TextSource) -> views.Targets:
  if not isinstance(source, views.Targets):
    raise TypeError(f"{type(source).__name__}: a source of targets expected")
  return source


def of(
  sources: Sequence[source_lib.TextSource],
  weights: Sequence[float],
  batch_size: int,
  seed: int,
) -> source_lib.TextSource:
  """Returns the mixture of sources; one alone as it is.

  Args:
    sources: of data sets.
    weights: of each.
    batch_size: samples of an optimizer step.
    seed: of which samples an epoch takes.
  """
  if len(sources) == 1:
    return sources[0]
  return Mixture(tuple(sources), tuple(weights), batch_size, seed)
