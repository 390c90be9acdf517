"""Samples of several kinds as one source of texts.

A weight is how many samples of a kind there are for each row that it can be
made of: 1 is one of each, 2 two with other draws, .5 of half of the rows, drawn
by the seed. So a kind that is left out leaves all others as they are.
"""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from bigrec_jax.data.text import source
from bigrec_jax.tasks import next_title
from bigrec_jax.tasks.auxiliary import samples as samples_lib
from bigrec_jax.workdir import fingerprints

_ROWS = 6  # Beside the kind in seeds of which rows are left out.


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
  """The samples of one kind.

  Attributes:
    kind: of `samples.KINDS`.
    rows: [n] int64, of each sample.
    turns: [n] int64, how often the row was used before.
  """

  kind: str
  rows: np.ndarray
  turns: np.ndarray

  def __len__(self) -> int:
    return len(self.rows)


def part(
  samples: samples_lib.Samples, kind: str, weight: float, seed: int
) -> Part:
  """Returns the samples of a kind.

  Args:
    samples: what they are made from.
    kind: of `samples.KINDS`.
    weight: samples for each row.
    seed: of which rows are used once more than others, in file order.
  """
  rows = samples.usable(kind)
  whole = int(weight)
  rest = round((weight - whole) * len(rows))
  rng = np.random.default_rng([seed, _ROWS, samples_lib.KINDS.index(kind)])
  more = np.sort(rng.choice(rows, rest, replace=False)) if rest else rows[:0]
  turns = np.repeat(np.arange(whole), len(rows))
  return Part(
    kind,
    np.concatenate([np.tile(rows, whole), more]),
    np.concatenate([turns, np.full(rest, whole)]),
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
  """All samples, kind by kind; a `source.TextSource`.

  Attributes:
    samples: what they are made from.
    parts: of each kind; those without samples may be left out.
    made_from: names all that the samples are drawn from, beside the rows and
      the wording.
  """

  samples: samples_lib.Samples
  parts: tuple[Part, ...]
  made_from: str

  @property
  def split(self) -> str:
    """Of the rows."""
    return self.samples.examples.split

  @functools.cached_property
  def fingerprints(self) -> tuple[str, ...]:
    """One, of rows, wording, counts and draws."""
    own = [
      self.samples.examples.fingerprint,
      self.samples.wording.fingerprint,
      [[part.kind, len(part)] for part in self.parts],
      self.made_from,
    ]
    return (fingerprints.of_value(own),)

  @functools.cached_property
  def _ends(self) -> np.ndarray:
    return np.cumsum([len(part) for part in self.parts])

  def __len__(self) -> int:
    return int(self._ends[-1]) if len(self.parts) else 0

  def _place(self, n: int) -> tuple[str, int, int]:
    """Returns kind, row and turn of a sample."""
    number = int(np.searchsorted(self._ends, n, side="right"))
    part = self.parts[number]
    own = n - (int(self._ends[number - 1]) if number else 0)
    return part.kind, int(part.rows[own]), int(part.turns[own])

  def _parts(self, n: int) -> next_title.Parts:
    return self.samples.parts(*self._place(n))

  def text(self, n: int) -> source.Text:
    """Returns how sample n reads."""
    return next_title.text_of(self._parts(n), self.samples.wording.prompt)

  def name(self, n: int) -> str:
    """Returns e.g. "train row 17 (bpr)", by the row of the full split."""
    kind, row, turn = self._place(n)
    more = f" {turn + 1}" if turn else ""
    return f"{self.split} row {self.samples.examples.rows[row]} ({kind}{more})"

  def content(self, n: int) -> dict[str, str]:
    """Returns instruction, input and output."""
    return self._parts(n)._asdict()

  def counts(self) -> Mapping[str, int]:
    """Returns the number of samples of each kind."""
    return {part.kind: len(part) for part in self.parts}
