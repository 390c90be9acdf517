"""What a ranker and a combiner are.

Whatever orders the catalogue for a user (distance to a text, a dot product, a
count, BM25) is a `Ranker`; `engine` makes exact ranks and lists of any of them
and is the only place that does. A `Combiner` makes one ranker of several.

Distance orders by the same rules, but decides what float32 cannot in float64
(`distance/`), so it has a path of its own; nothing else needs one.

Letters: N users, n users of a block, I items, C items of a block.
"""

from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np

from bigrec_jax.rankers import counting


class Ranker(Protocol):
  """Scores blocks of users against blocks of items; the highest comes first.

  The engine asks for blocks of users, pads them to one size, holds the items
  on the mesh and scores a block of one against a block of the other:
  `score(queries [n, ...], items [C, ...]) -> [n, C]`. Equal scores are in
  catalogue order; NaN comes last.

  Attributes:
    score: a module's function, not a closure or a method: it is compiled into
      the engine's programs, which a fresh one would compile anew.
  """

  @property
  def score(self) -> counting.ScoreFn:
    """Scores a block; float32, of whatever `queries` and `items` hold."""

  @property
  def width(self) -> int:
    """Numbers that `queries` holds of one user: bounds the users of a block."""

  def queries(self, users: slice) -> Any:
    """Returns what is known of a block of users: a tree of [n, ...].

    Args:
      users: a whole block, whose end may lie behind the last user. A host
        array may end there; a device array has as many rows as the block, of
        which those of no user may hold anything.
    """

  def items(self) -> Any:
    """Returns what is known of the items: a tree of [I, ...].

    Asked for once a ranking. Rows past I are padding.
    """


class Combiner(Protocol):
  """Makes one ranker of several; what it has to learn, it learns on valid.

  Injection is the same idea where one of the parts is a distance, which has
  no score to give away (`combine.injection`, fitted by `combine.calibrate`).
  """

  def fit(self, parts: Sequence[Ranker], targets: np.ndarray) -> Self:
    """Returns the combiner with what the valid split taught it.

    Args:
      parts: over the users of valid.
      targets: [N] catalogue rows, what these users took.
    """

  def __call__(self, parts: Sequence[Ranker]) -> Ranker:
    """Returns one ranker over the users of the parts, in the order of `fit`."""
