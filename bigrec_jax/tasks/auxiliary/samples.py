"""The six kinds of samples, each made of a prepared row when it is read.

A row is a history and its target. Prepared train rows are windows that slide
over what users did before valid and test, one step at a time; so no sample of
training has an item of valid or test in it, at its place or masked.

  retrieval  history -> target
  ranking    history and candidates, the target among them -> target
  rating     history with ratings, target -> its rating
  mim        history and target, items hidden -> these items
  mlm        history and target, words of titles hidden -> these words
  bpr        history, target and an item the user never had -> target

What is drawn at random (candidates, what is hidden, the order of two items)
depends on a seed, the kind, the row and the number of the pass over it alone:
a run that goes on, or reads samples in another order, reads the same ones.

Letters: N rows, C candidates, L ratings.
"""

import dataclasses
import functools

import numpy as np

from bigrec_jax.config import AuxiliaryConfig
from bigrec_jax.data.prepared.examples import Examples
from bigrec_jax.tasks import next_title
from bigrec_jax.tasks.auxiliary import blanks
from bigrec_jax.tasks.auxiliary.negatives import Negatives
from bigrec_jax.tasks.auxiliary.wording import INSTRUCTIONS, Wording

# Their places are in the seeds of samples.
KINDS = ("retrieval", "ranking", "rating", "mim", "mlm", "bpr")
RECOMMENDATION, AUXILIARY = KINDS[:3], KINDS[3:]


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
  """Samples of each kind, of any of N rows.

  Attributes:
    examples: the rows. What text a row may carry itself is another system's, so
      it is left out.
    wording: how items read.
    config: section `task.auxiliary`.
    negatives: what is drawn for them.
    seed: of all that is drawn.
  """

  examples: Examples
  wording: Wording
  config: AuxiliaryConfig
  negatives: Negatives
  seed: int

  def usable(self, kind: str) -> np.ndarray:
    """Returns the rows [n] int64 that a kind can be made of."""
    examples, count = self.examples, len(self.examples)
    if kind == "rating":
      if examples.rating is None:
        return np.empty(0, np.int64)
      return np.flatnonzero(~np.isnan(examples.rating))
    if kind == "mim":  # Something has to be left.
      return np.flatnonzero((examples.history >= 0).any(axis=1))
    if kind == "mlm":
      if not self.wording.has_titles:
        return np.empty(0, np.int64)
      titles = self.wording.catalogue.titles
      has_words = np.array([bool(title.strip()) for title in titles])
      return np.flatnonzero(has_words[examples.target])
    return np.arange(count)

  def parts(self, kind: str, n: int, turn: int = 0) -> next_title.Parts:
    """Returns instruction, input and output of a sample.

    Args:
      kind: of KINDS.
      n: row, of `usable`.
      turn: number of the pass over the rows.
    """
    instruction = INSTRUCTIONS.get(kind, self.wording.prompt.instruction)
    asked, answer = self._makers[kind](n, self._rng(kind, n, turn))
    return next_title.Parts(instruction, asked, answer)

  def candidates(self, n: int, turn: int = 0) -> np.ndarray:
    """Returns the candidates [C] of a ranking sample as it lists them."""
    return self._candidates(n, self._rng("ranking", n, turn))

  @functools.cached_property
  def _makers(self):
    return {
      "retrieval": self._retrieval,
      "ranking": self._ranking,
      "rating": self._rating,
      "mim": self._mim,
      "mlm": self._mlm,
      "bpr": self._bpr,
    }

  def _rng(self, kind: str, n: int, turn: int) -> np.random.Generator:
    row = int(self.examples.rows[n])
    return np.random.default_rng([self.seed, KINDS.index(kind), turn, row])

  def _history(self, n: int) -> list[int]:
    history = self.examples.history[n]
    return history[history >= 0].tolist()

  def _window(self, n: int) -> list[int]:
    """Returns the newest items of a row, its target last."""
    items = [*self._history(n), int(self.examples.target[n])]
    return items[-self.config.window :]  # All of them where it is 0.

  def _candidates(self, n: int, rng: np.random.Generator) -> np.ndarray:
    target = int(self.examples.target[n])
    others = self._others(n, rng, self.config.candidates - 1)
    return rng.permutation(np.array([target, *others]))

  def _others(self, n: int, rng: np.random.Generator, count: int) -> np.ndarray:
    """Returns items [count] that the user of a row never had."""
    own = np.array([*self._history(n), self.examples.target[n]])
    return self.negatives.draw(rng, int(self.examples.user[n]), own, count)

  def _retrieval(self, n: int, _: np.random.Generator) -> tuple[str, str]:
    history = [self.wording.item(item) for item in self._history(n)]
    answer = self.wording.answer(int(self.examples.target[n]))
    return self.wording.history(history), answer

  def _ranking(self, n: int, rng: np.random.Generator) -> tuple[str, str]:
    history, answer = self._retrieval(n, rng)
    listed = map(self.wording.item, self._candidates(n, rng).tolist())
    return f"{history}\nCandidates: {', '.join(listed)}", answer

  def _rating(self, n: int, _: np.random.Generator) -> tuple[str, str]:
    examples = self.examples
    assert examples.rating is not None  # `usable` has no row without one.
    known = examples.history[n] >= 0
    ratings = np.full(known.shape, np.nan)
    if examples.history_rating is not None:
      ratings = examples.history_rating[n]
    history = [
      self.wording.item(item, note=_note(float(rating)))
      for item, rating in zip(
        examples.history[n][known].tolist(), ratings[known], strict=True
      )
    ]
    target = self.wording.item(int(examples.target[n]))
    answer = self.rating_answer(float(examples.rating[n]))
    return f"{self.wording.history(history)}\nItem: {target}", answer

  def rating_answer(self, rating: float) -> str:
    """Returns what the model writes for a rating."""
    return self.wording.prompt.output_text(f"{rating:g}")

  def _mim(self, n: int, rng: np.random.Generator) -> tuple[str, str]:
    items = self._window(n)
    count = min(self.config.masked_items, len(items) - 1)
    hidden = np.sort(rng.choice(len(items), count, replace=False)).tolist()
    shown = [self.wording.item(item) for item in items]
    for number, place in enumerate(hidden):
      shown[place] = self.wording.blank(number)
    answer = self.wording.answer(*(items[place] for place in hidden))
    return self.wording.history(shown), answer

  def _mlm(self, n: int, rng: np.random.Generator) -> tuple[str, str]:
    items, wording = self._window(n), self.wording
    titles = [wording.catalogue.titles[item] for item in items]
    rate = self.config.mask_rate
    shown, answer = blanks.hide(titles, rng, rate, wording.blank)
    read = map(wording.item, items, shown)
    return wording.history(list(read)), answer

  def _bpr(self, n: int, rng: np.random.Generator) -> tuple[str, str]:
    *history, target = self._window(n)
    (other,) = self._others(n, rng, 1).tolist()
    pair = [target, other] if rng.random() < 0.5 else [other, target]
    first, second = map(self.wording.item, pair)
    shown = self.wording.history([self.wording.item(i) for i in history])
    asked = f"{shown}\nTwo others: {first}, {second}"
    return asked, self.wording.answer(target)


def _note(rating: float) -> str:
  return "" if np.isnan(rating) else f"rated {rating:g}"


def levels_of(train: Examples) -> np.ndarray:
  """Returns the ratings [L] float64 that train rows have, ascending."""
  if train.rating is None:
    return np.empty(0)
  known = train.rating[~np.isnan(train.rating)]
  return np.unique(known).astype(np.float64)
