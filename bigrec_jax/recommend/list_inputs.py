"""What lists are made of: texts, prompts, the catalogue, and what is wanted.

Letters: N users, n some of them, B texts of a user, H hidden, I items, D width.
"""

import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bigrec_jax.recommend import loaded as loaded_lib, shelf as shelf_lib
from bigrec_jax.results import chosen as chosen_lib

if TYPE_CHECKING:
  from bigrec_jax.decoding import generate


class Prompts(NamedTuple):
  """What was asked.

  Attributes:
    tokens: [N] of each user.
    prefix: what all begin with, read already; None = found when asked.
  """

  tokens: list[list[int]]
  prefix: "generate.Prefix | None"


ReadPrompts = Callable[[], Prompts]


class Texts(NamedTuple):
  """What was written for N users, as far as lists are made of it.

  Attributes:
    texts: [N][<= B] cleaned titles, best first; one without any letter only
      where a user has no other.
    scores: [N] float64, of the first text as it was written.
    log_probs: [N, B] float64, -inf where there is no text; None where only
      the first text of each counts.
    prompts: of these users; None where nobody reads them.
  """

  texts: list[list[str]]
  scores: np.ndarray
  log_probs: np.ndarray | None
  prompts: Prompts | None

  def of(self, part: slice) -> "Texts":
    """Returns those of some users."""
    logs = None if self.log_probs is None else self.log_probs[part]
    asked = self.prompts
    if asked is not None:
      asked = Prompts(asked.tokens[part], asked.prefix)
    return Texts(self.texts[part], self.scores[part], logs, asked)


class Wanted(NamedTuple):
  """What lists are to hold.

  Attributes:
    hidden: [n, H] catalogue rows that aren't listed, padded with -1.
    k: items in a list.
    allowed: [I] bool, which rows may be listed, at least one; None = all.
  """

  hidden: np.ndarray
  k: int
  allowed: np.ndarray | None


class Given(NamedTuple):
  """What lists are made with.

  Attributes:
    loaded: configuration and workdir.
    adapter: the PEFT directory of the model that writes.
    shelf: the rows of the catalogue.
    chosen: what valid chose, or the user.
  """

  loaded: loaded_lib.Loaded
  adapter: pathlib.Path
  shelf: shelf_lib.Shelf
  chosen: chosen_lib.Chosen

  @property
  def items(self) -> np.ndarray:
    """[I, D] float32, embeddings of the catalogue."""
    return self.shelf.vectors

  @property
  def groups(self) -> np.ndarray:
    """[I] int32, rows of one number are one title."""
    return self.shelf.groups
