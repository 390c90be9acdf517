"""What a calibrated fusion has learnt, in plain sentences.

Each compares two candidates that are equal but for one thing, and says what the
odds of being taken are multiplied by. The first item of a list rather than the
tenth means with all that goes with it on average: distances, scores, places.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from bigrec_jax.rankers.combine import features, fusion

TENTH = 9  # A place, from 0.
_WORDS = "the words of the history's titles"
_LEAST = 0.01  # Of a change in log odds that is worth a sentence.

# One thing: by how many deviations each column changes, cut as scores cut it.
_Change = Mapping[str, float]


def says(fitted: fusion.Fusion, contrasts: Mapping[str, _Change]) -> list[str]:
  """Returns sentences on the weights.

  Args:
    fitted: with its weights.
    contrasts: by words for the first item of a list, by how many deviations
      columns lose from it to the tenth.
  """
  base = named(fitted.base)
  behind = f"All other items follow in the order of {base}."
  if not fitted.weights:
    return [f"Valid likes the order of {base} alone best.", behind]
  found = [
    f"{thing} {_times(change)}."
    for thing, columns in _things(fitted, contrasts)
    if abs(change := _log_odds(fitted, 0, columns)) >= _LEAST
  ]
  return [*found, *_gates(fitted, contrasts), behind]


def named(part: str) -> str:
  """Returns a part as sentences name it."""
  return _WORDS if part == features.WORDS else part


def _things(
  fitted: fusion.Fusion, contrasts: Mapping[str, _Change]
) -> Iterator[tuple[str, _Change]]:
  """Yields what is compared, as the beginning of a sentence."""
  for first, columns in contrasts.items():
    yield f"Being {first}", columns

  def change(name: str, low: float, high: float) -> _Change:
    return _change(fitted.columns, name, low, high)

  def more(name: str, by: float) -> _Change:
    own = dict(zip(fitted.columns.names, fitted.columns.mean, strict=True))
    return change(name, own.get(name, 0.0), own.get(name, 0.0) + by)

  for part in fitted.parts:
    if part not in (features.TEXT, features.POPULARITY):
      agrees = change(f"{part}: agrees with text", 0.0, 1.0)
      both = f"both the text and {named(part)}"
      yield f"Being among the first ten of {both}", agrees
  yield "Ten times as many purchases", more("log popularity", math.log(10))
  yield "Never having been bought in train", change("cold", 0.0, 1.0)
  yield "Being in the history", change("in history", 0.0, 1.0)
  for name in (features.LIKELIHOOD, features.RATIO):
    yield f"One nat more of {name}", more(name, 1.0)


def _change(
  columns: fusion.Standard, name: str, low: float, high: float
) -> _Change:
  """Returns what a column changes by from one value to another, if it counts.

  A yes or no that is rare is cut: it counts less than its weight says.
  """
  if name not in columns.names:
    return {}
  at = columns.names.index(name)
  own = fusion.Standard(
    (name,), columns.mean[at : at + 1], (columns.deviation[at],)
  )
  start, end = own({name: np.array([low, high])})[:, 0]
  return {name: float(end - start)}


def _log_odds(fitted: fusion.Fusion, row: int, change: _Change) -> float:
  """Returns the change of the score by one row of weights."""
  return sum(
    change.get(name, 0.0) * weight
    for name, weight in zip(
      fitted.columns.names, fitted.weights[row], strict=True
    )
  )


def _gates(
  fitted: fusion.Fusion, contrasts: Mapping[str, _Change]
) -> Iterator[str]:
  """Yields a sentence a gate: on the part that it changes most."""
  if len(fitted.weights) < 2 or not contrasts:
    return
  for row, gate in enumerate(fitted.gates.names, start=1):
    changes = {
      part: _log_odds(fitted, row, change) for part, change in contrasts.items()
    }
    part = max(changes, key=lambda own: abs(changes[own]))
    if abs(changes[part]) < _LEAST:
      continue
    plain = _log_odds(fitted, 0, contrasts[part])
    model, colon, number = gate.partition(": ")
    yield (
      f"Where '{named(model)}{colon}{number}' is a deviation above its mean,"
      f" being {part}"
      f" {_times(plain + changes[part])}; on average it {_times(plain)}."
    )


def _times(log_odds: float) -> str:
  """Returns "multiplies the odds by 3.2", or what divides them."""
  verb = "multiplies" if log_odds >= 0 else "divides"
  return f"{verb} the odds by {math.exp(min(abs(log_odds), 50.0)):.3g}"
