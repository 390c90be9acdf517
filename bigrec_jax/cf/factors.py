"""Scores as two tables, on the host: readers of scores need no JAX."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Factors:
  """Scores in factorised form: scores[n, i] = states[n] . items[i].

  Attributes:
    states: [N, D] float32.
    items: [I, D] float32; a bias is one more column (its state is 1).
  """

  states: np.ndarray
  items: np.ndarray
