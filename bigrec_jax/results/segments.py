"""Test users in groups: how known their target is, how long their history.

Letters: N users of a split, I items.
"""

import dataclasses

import numpy as np

from bigrec_jax.data.prepared import examples as examples_lib

# Items of a history, first and last number of each group.
_LENGTHS = ((0, 2), (3, 5), (6, 9), (10, 10**9))


@dataclasses.dataclass(frozen=True, eq=False)
class Users:
  """What is known of the users of a split, beside their ranks.

  Attributes:
    target: [N] catalogue rows.
    history_length: [N] items that the user had before.
    known_transition: [N] whether somebody in train went from the last item of
      the history to the target.
  """

  target: np.ndarray
  history_length: np.ndarray
  known_transition: np.ndarray


def users(
  split: examples_lib.Examples, train: examples_lib.Examples, num_items: int
) -> Users:
  """Returns what examples say of a split's users.

  Args:
    split: whose users.
    train: all rows of train, whatever the models were trained on.
    num_items: I.
  """
  length = (split.history >= 0).sum(axis=1)
  known = known_transitions(split, train, num_items)
  return Users(split.target, length, known)


def known_transitions(
  split: examples_lib.Examples, train: examples_lib.Examples, num_items: int
) -> np.ndarray:
  """Returns [N] whether train goes straight from a last item to the target.

  Of an empty history nothing does.

  Args:
    split: whose users.
    train: all rows of train.
    num_items: I.
  """
  length = (split.history >= 0).sum(axis=1)
  places = np.maximum(length - 1, 0)[:, None]
  last = np.take_along_axis(split.history, places, axis=1)[:, 0]
  wanted = _pair(last, split.target, num_items)
  known = np.isin(wanted, _transitions(train, num_items, wanted))
  return np.asarray(known & (length > 0))


def _pair(first: np.ndarray, second: np.ndarray, num_items: int) -> np.ndarray:
  return first.astype(np.int64) * num_items + second


def _transitions(
  train: examples_lib.Examples, num_items: int, wanted: np.ndarray
) -> np.ndarray:
  """Returns those of the wanted pairs that follow each other in train."""
  steps = np.concatenate([train.history, train.target[:, None]], axis=1)
  ends = (train.history >= 0).sum(axis=1)
  found = []
  for place in range(train.history.shape[1]):  # A column at a time: memory.
    first = train.history[:, place]
    second = np.where(ends == place + 1, train.target, steps[:, place + 1])
    pairs = _pair(first, second, num_items)[(first >= 0) & (second >= 0)]
    found.append(np.unique(pairs[np.isin(pairs, wanted)]))
  return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)


def popularity_labels(counts: np.ndarray) -> np.ndarray:
  """Returns [I]: 0 cold, 2 popular, 1 the others.

  Cold are items that train lacks; popular are those of the tenth of the
  catalogue that train has most often, of equals the first.

  Args:
    counts: [I] interactions in train.
  """
  label = np.where(counts > 0, 1, 0)
  most = np.argsort(-counts, kind="stable")[: len(counts) // 10]
  label[most] *= 2
  return label


def by_popularity(
  target: np.ndarray, counts: np.ndarray
) -> list[tuple[str, np.ndarray]]:
  """Returns (name, mask [N]): cold, seen and popular targets.

  Args:
    target: [N] catalogue rows.
    counts: [I] interactions in train.
  """
  label = popularity_labels(counts)[target]
  names = ("cold target", "seen target", "popular target")
  return [(name, label == n) for n, name in enumerate(names)]


def by_history(length: np.ndarray) -> list[tuple[str, np.ndarray]]:
  """Returns (name, mask [N]) of histories from short to long."""
  return [
    (
      f"history of {low}+" if high > 1000 else f"history of {low}–{high}",
      (length >= low) & (length <= high),
    )
    for low, high in _LENGTHS
  ]


def by_transition(known: np.ndarray) -> list[tuple[str, np.ndarray]]:
  """Returns (name, mask [N]) of targets that followed in train, and others."""
  return [("memorised transition", known), ("new transition", ~known)]
