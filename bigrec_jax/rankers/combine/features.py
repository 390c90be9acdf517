"""What a fused score is made of: numbers of candidates, and of their users.

A part that isn't there (no CF model, no scores of the texts, one text alone)
has no columns at all, so that nothing reads an absence as a zero. Places count
as log(1 + place) and 1 / (1 + place), from 0 and up to the length of a list.
BM25 of the history's titles is a model as those of CF are: it scores every
item, 0 where no word is shared, which is the least and so in no list.

Letters: n users, S slots, B texts, M models, F columns, G gates.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bigrec_jax.rankers import bm25
from bigrec_jax.rankers.combine import candidates

TEXT, POPULARITY = "text", "popularity"
WORDS = "bm25"  # The model that scores the words of the history's titles.
LIKELIHOOD, RATIO = "likelihood", "likelihood ratio"
_AGREES = ": agrees with text"
_AGREED = 10  # Places that count as agreement of text and CF.
# Normalised distance over which closeness falls by e, and the least of it.
_CLOSE, _FAR = 0.05, 1e-6


class Items(NamedTuple):
  """What is known of the catalogue.

  Attributes:
    popularity: [I] counts; None = they are not known.
    models: names of the CF models, and `WORDS`, in the order of
      `Candidates.cf`.
    words: what `WORDS` scores with; None = it isn't among the models, or its
      scores are there already.
  """

  popularity: np.ndarray | None
  models: tuple[str, ...]
  words: bm25.Settings | None = None

  @property
  def parts(self) -> tuple[str, ...]:
    """What can order the catalogue on its own: text, models, popularity."""
    last = () if self.popularity is None else (POPULARITY,)
    return (TEXT, *self.models, *last)


class Features(NamedTuple):
  """Numbers of the candidates of n users, not standardised.

  Attributes:
    columns: by name, [n, S] float32; anything where a slot is empty.
    gates: by name, [n] float32.
  """

  columns: Mapping[str, np.ndarray]
  gates: Mapping[str, np.ndarray]


def of(
  found: candidates.Candidates,
  users: candidates.Users,
  items: Items,
  asked: Mapping[str, np.ndarray] | None = None,
) -> Features:
  """Returns the features of candidates.

  Args:
    found: candidates of the users.
    users: with `history` and `log_probs`.
    items: of the catalogue.
    asked: by name [n, S], what the model itself says of some candidates, NaN
      of the others (`likelihood`); None = it was not asked. A user's others
      count as the least of theirs, and a column says which they are.
  """
  columns, gates = _text(found, users)
  for n, model in enumerate(items.models):
    of_model = _cf(found, n)
    columns |= {f"{model}: {key}": own for key, own in of_model.items()}
    place = found.cf_places[:, :, n]
    both = (found.places[:, :, 0] < _AGREED) & (place < _AGREED)
    columns[_agreement(model)] = both
    low, high, total = found.cf_range[:, n].astype(np.float64).T
    gates[f"{model}: probability of its first"] = np.exp(high - total)
    gates[f"{model}: knows the user"] = high > low
  if items.popularity is not None:
    counts = items.popularity[np.maximum(found.items, 0)]
    columns["log popularity"] = np.log1p(counts)
    columns["cold"] = counts == 0
  columns["in history"] = (
    found.items[:, :, None] == users.history[:, None, :]
  ).any(axis=2)
  gates["log history length"] = np.log1p((users.history >= 0).sum(axis=1))
  for key, own in (asked or {}).items():
    columns |= _partly_known(key, own)
  return Features(
    {key: own.astype(np.float32) for key, own in columns.items()},
    {key: own.astype(np.float32) for key, own in gates.items()},
  )


def likelihood(
  items: np.ndarray,
  groups: np.ndarray,
  titles: np.ndarray,
  after: np.ndarray,
  alone: np.ndarray,
) -> dict[str, np.ndarray]:
  """Returns log-probabilities of the titles of slots, by name [n, S].

  Args:
    items: [n, S] catalogue rows, -1 = empty.
    groups: [I] int32, `Catalogue.groups`.
    titles: [n, L] numbers of the titles that the model was asked of, -1 = none.
    after: [n, L] log p(title | history).
    alone: [n, L] log p(title | no history).
  """
  own = np.where(items >= 0, groups[np.maximum(items, 0)], -2)
  found = np.full((2, *items.shape), np.nan)
  for n, asked in enumerate(titles):
    order = np.argsort(asked)
    at = order[
      np.searchsorted(asked, own[n], sorter=order).clip(0, len(asked) - 1)
    ]
    known = asked[at] == own[n]
    found[0, n, known] = after[n, at[known]]
    found[1, n, known] = after[n, at[known]] - alone[n, at[known]]
  return {LIKELIHOOD: found[0], RATIO: found[1]}


def is_of(column: str, part: str) -> bool:
  """Returns whether a column is of the text, or of a model, alone."""
  if part == TEXT:
    return column.startswith(("text: ", "texts: "))
  return column.startswith(f"{part}: ") and column != _agreement(part)


def is_agreement(column: str) -> bool:
  """Returns whether a column compares a model with the text."""
  return column.endswith(_AGREES)


def _agreement(model: str) -> str:
  return f"{model}{_AGREES}"


def base_column(part: str) -> tuple[str, float]:
  """Returns the column that orders as a part alone does, and its sign."""
  if part == POPULARITY:
    return "log popularity", 1.0
  return f"{part}: log place", -1.0


def costs(part: str, found: candidates.Candidates, items: Items) -> np.ndarray:
  """Returns [n, S] float64: what a part alone sorts by, ascending.

  Args:
    part: of `Items.parts`; the text is the first of a user.
    found: candidates.
    items: of the catalogue.
  """
  if part == TEXT:
    return found.distances[:, :, 0]
  if part == POPULARITY:
    assert items.popularity is not None, items
    return -items.popularity[np.maximum(found.items, 0)].astype(np.float64)
  return -found.cf[:, :, items.models.index(part)].astype(np.float64)


def _text(
  found: candidates.Candidates, users: candidates.Users
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Returns columns and gates of what was written."""
  near = found.distances - found.nearest[:, None]  # [n, S, B]
  scaled = near / found.spread[:, None]
  first = found.places[:, :, 0]
  columns = {
    "text: distance": found.distances[:, :, 0],
    "text: normalised distance": scaled[:, :, 0],
    "text: log place": np.log1p(first),
    "text: 1 / place": _reciprocal(first, candidates.FIRST_TEXT),
    "text: exact title": found.distances[:, :, 0] == 0,
  }
  gates = {
    "text: least distance": found.nearest[:, 0],
    "text: is a title": found.nearest[:, 0] == 0,
  }
  if users.log_probs is not None:
    gates["text: probability"] = np.exp(
      users.log_probs[:, 0].astype(np.float64)
    )
  if found.places.shape[2] == 1:
    return columns, gates
  columns |= {
    "texts: least normalised distance": scaled.min(axis=2),
    "texts: exact title of one": (found.distances == 0).any(axis=2),
  }
  if users.log_probs is not None:
    mass = _mass(users.log_probs.astype(np.float64))[:, None]  # [n, 1, B]
    close = np.exp(-scaled / _CLOSE)
    columns |= {
      "texts: probability that is nearest": ((near == 0) * mass).sum(axis=2),
      "texts: probability / place": (mass / (1.0 + found.places)).sum(axis=2),
      "texts: mean normalised distance": (scaled * mass).sum(axis=2),
      "texts: log closeness": np.log((close * mass).sum(axis=2) + _FAR),
    }
    gates["texts: probability of the first"] = mass[:, 0, 0]
  return columns, gates


def _mass(log_probs: np.ndarray) -> np.ndarray:
  """Returns the share [n, B] of each text in the probability of them all."""
  own = np.exp(log_probs - log_probs.max(axis=1, keepdims=True))
  return own / own.sum(axis=1, keepdims=True)


def _cf(found: candidates.Candidates, model: int) -> dict[str, np.ndarray]:
  """Returns the columns of one model."""
  scores = found.cf[:, :, model].astype(np.float64)
  of_rows = found.cf_range[:, model].astype(np.float64)
  low, high, total = (of_rows[:, [n]] for n in range(3))  # [n, 1] each
  span = high - low
  place = found.cf_places[:, :, model]
  return {
    "normalised score": (scores - low) / np.where(span > 0, span, 1.0),
    "log probability": scores - total,
    "log place": np.log1p(place),
    "1 / place": _reciprocal(place, candidates.CF),
  }


def _reciprocal(places: np.ndarray, length: int) -> np.ndarray:
  """Returns 1 / (1 + place), 0 behind the list."""
  return np.where(places < length, 1.0 / (1.0 + places), 0.0)


def _partly_known(key: str, own: np.ndarray) -> dict[str, np.ndarray]:
  """Returns a column [n, S] without its NaN, and one of where there were any.

  A user of whom nothing is known has zeros: within a user a constant changes
  no order.
  """
  known = np.isfinite(own)
  least = np.where(known, own, np.inf).min(axis=1, keepdims=True)
  least = np.where(np.isfinite(least), least, 0.0)
  found = {key: np.where(known, own, least)}
  return found | {f"{key}: asked": known}
