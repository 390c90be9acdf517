"""The weights of a calibrated fusion, and how it ranks those it never saw.

Valid is cut into folds of whole users. Form and penalty are chosen by the
NDCG@20 of users that the weights were not fitted on. The places reported for
valid are of weights that saw neither the fold nor a setting chosen by it: for
each fold the setting is chosen by the others alone (nested cross-validation,
whose inner fits, each without two folds, serve two outer folds). Everything is
deterministic.

Letters: N users, S slots, F columns, G gates, A = 1 + G.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bigrec_jax.rankers.combine import (
  calibrate,
  candidates,
  features,
  fused_ranks,
  fusion,
  fusion_words,
  listwise,
)
from bigrec_jax.results import metrics

FOLDS = 5
# A weight of standardised numbers has a prior deviation of 1 / sqrt(penalty).
# From strong to weak, so that each starts near where the one before ended.
_PENALTIES = (300.0, 30.0, 3.0)
_GATES = 4.0  # Times a penalty is that of what depends on the user.
# The base's own column is nearly free: what is shrunk is what leaves it.
_BASE = 0.01


class Setting(NamedTuple):
  """A form and how strongly it is held near the base.

  Attributes:
    form: base (no weights at all), linear, or gated (weights depend on the
      user).
    penalty: L2; 0 of the base.
  """

  form: str
  penalty: float


SETTINGS = (
  Setting("base", 0.0),
  *(
    Setting(form, penalty)
    for form in ("linear", "gated")
    for penalty in _PENALTIES
  ),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Valid:
  """What is learnt from.

  Attributes:
    found: candidates of N users.
    known: their features.
    items: of the catalogue.
    judged: where their targets are.
    taken: [N] catalogue rows, the targets.
    owners: [N] whose rows these are: one owner's are never in two folds.
  """

  found: candidates.Candidates
  known: features.Features
  items: features.Items
  judged: fused_ranks.Judged
  taken: np.ndarray
  owners: np.ndarray


class Fitted(NamedTuple):
  """What valid taught.

  Attributes:
    fusion: fitted on all of valid.
    ranks: [N] int32, cross-fitted places of valid's targets.
    report: for a result file: folds, settings tried, NDCG, words.
  """

  fusion: fusion.Fusion
  ranks: np.ndarray
  report: dict[str, Any]


def fit(valid: Valid, seed: int) -> Fitted:
  """Returns the fitted fusion.

  Args:
    valid: candidates, features and targets.
    seed: of the folds.
  """
  return _Fit(valid, seed).run()


def best_part(judged: fused_ranks.Judged, users: np.ndarray) -> str:
  """Returns the part that alone ranks some users best, the first of equals.

  Args:
    judged: where targets are.
    users: [N] bool, at least one is True.
  """
  return max(judged.alone, key=lambda part: _ndcg(judged.alone[part][users]))


def folds_of(owners: np.ndarray, seed: int) -> np.ndarray:
  """Returns the fold [N] of each row, 0 up to `FOLDS` or the owners there are.

  Args:
    owners: [N].
    seed: of which owner is where.
  """
  _, own = np.unique(owners, return_inverse=True)
  order = np.random.default_rng(seed).permutation(own.max() + 1)
  return order[own] % min(FOLDS, len(order))


def _ndcg(ranks: np.ndarray) -> float:
  return metrics.ndcg(ranks, calibrate.SINGLE_CUTOFF)


def _gains(ranks: np.ndarray) -> np.ndarray:
  """Returns each user's share [N] in NDCG@20."""
  gains = 1.0 / np.log2(ranks + 2.0)
  return np.where(ranks < calibrate.SINGLE_CUTOFF, gains, 0.0)


class _Fit:
  """One call of `fit`."""

  def __init__(self, valid: Valid, seed: int):
    self._valid = valid
    found, known = valid.found, valid.known
    real = found.real
    self._columns = fusion.Standard.of(
      {name: own[real] for name, own in known.columns.items()}
    )
    self._gates = fusion.Standard.of(known.gates)
    columns, gates = self._columns(known.columns), self._gates(known.gates)
    self._in, taken = _taken(valid)
    self._numbers, self._user_numbers = columns, gates
    self._costs = {
      part: features.costs(part, found, valid.items)
      for part in valid.items.parts
    }
    gated = listwise.data(
      columns[self._in], real[self._in], gates[self._in], taken
    )
    linear = gated._replace(gates=gated.gates[:, :1])
    self._data = {"linear": linear, "gated": gated}
    self._folds = folds_of(valid.owners, seed)
    self._weights: dict[Any, np.ndarray] = {}
    self._ranks: dict[Any, np.ndarray] = {}

  def run(self) -> Fitted:
    numbers = range(int(self._folds.max()) + 1)
    ranks = np.zeros(len(self._folds), np.int32)
    for fold in numbers:
      without = frozenset({fold})
      setting, _ = self._choose(numbers, without)
      own = self._folds == fold
      ranks[own] = self._ranked(without, setting)[own]
    valid, (setting, tried) = self._valid, self._choose(numbers, frozenset())
    everybody = frozenset[int]()
    fitted = self._fusion(
      self._base(everybody), self._trained(everybody, setting)
    )
    report = {
      "form": setting.form,
      "penalty": setting.penalty,
      "folds": len(numbers),
      "tried": len(SETTINGS),
      "settings": [
        {**one._asdict(), "valid_ndcg@20": ndcg}
        for one, ndcg in zip(SETTINGS, tried, strict=True)
      ],
      "valid_ndcg@20": _ndcg(ranks),
      "users_with_the_target_among_candidates": int(self._in.sum()),
      "candidates": valid.found.items.shape[1],
      "says": fusion_words.says(fitted, self._contrasts()),
      "parameters": fitted.to_json(),
    }
    return Fitted(fitted, ranks, report)

  def _choose(
    self, numbers: Sequence[int], without: frozenset[int]
  ) -> tuple[Setting, list[float]]:
    """Returns the setting that ranks folds best which it wasn't fitted on.

    The base stays where the gain over it is within its standard error.

    Args:
      numbers: of the folds.
      without: those that nothing is to be known of.

    Returns:
      (the setting, NDCG@20 of each).
    """
    folds = [fold for fold in numbers if fold not in without]
    if not folds:
      return SETTINGS[0], [0.0] * len(SETTINGS)
    own = np.isin(self._folds, folds)
    gains = []
    for setting in SETTINGS:
      places = sum(self._only(without, fold, setting) for fold in folds)
      gains.append(_gains(np.asarray(places)[own]))
    best = int(np.argmax([gain.mean() for gain in gains]))
    more = gains[best] - gains[0]
    if more.mean() <= more.std() / np.sqrt(len(more)):
      best = 0
    return SETTINGS[best], [float(gain.mean()) for gain in gains]

  def _only(
    self, without: frozenset[int], fold: int, setting: Setting
  ) -> np.ndarray:
    """Returns the places [N] of a fold, 0 of the others."""
    places = self._ranked(without | {fold}, setting)
    return np.where(self._folds == fold, places, 0)

  def _ranked(self, without: frozenset[int], setting: Setting) -> np.ndarray:
    """Returns the places [N] by weights fitted without some folds.

    Only of the folds that are left out; 0 of the others.
    """
    key = without, setting
    if key not in self._ranks:
      valid, base = self._valid, self._base(without)
      fitted = self._fusion(base, self._trained(without, setting))
      own = np.isin(self._folds, list(without))
      places = np.zeros(len(own), np.int32)
      places[own] = fused_ranks.ranks(
        fitted.linear(self._numbers[own], self._user_numbers[own]),
        self._costs[base][own],
        valid.found.items[own],
        valid.judged.own[own],
        valid.judged.rest[base][own],
      )
      self._ranks[key] = places
    return self._ranks[key]

  def _trained(self, without: frozenset[int], setting: Setting) -> np.ndarray:
    """Returns the weights [A, F] of users outside some folds; [0, F] of base.

    Args:
      without: folds that nothing is known of.
      setting: form and penalty.
    """
    width = len(self._columns.names)
    if setting.form == "base" or not width:
      return np.zeros((0, width))
    key = without, setting
    if key not in self._weights:
      users = self._data[setting.form]
      gates = users.gates.shape[1]
      start, before = np.zeros((gates, width)), self._before(setting)
      if before is not None:
        known = self._trained(without, before)
        start[: len(known)] = known
      penalty = np.full((gates, width), setting.penalty * _GATES)
      penalty[0] = setting.penalty
      column, _ = features.base_column(self._base(without))
      if column in self._columns.names:
        penalty[0, self._columns.names.index(column)] = _BASE
      included = ~np.isin(self._folds[self._in], list(without))
      self._weights[key] = listwise.fit(users, included, penalty, start)
    return self._weights[key]

  def _before(self, setting: Setting) -> Setting | None:
    """Returns the setting whose weights are nearest, among those before."""
    at = SETTINGS.index(setting)
    if SETTINGS[at - 1].form == setting.form:
      return SETTINGS[at - 1]
    return None if setting.form == "linear" else SETTINGS[1]

  def _base(self, without: frozenset[int]) -> str:
    """Returns the part that is best alone outside some folds."""
    users = ~np.isin(self._folds, list(without))
    return best_part(self._valid.judged, users if users.any() else ~users)

  def _fusion(self, base: str, weights: np.ndarray) -> fusion.Fusion:
    return fusion.Fusion(
      fusion.CALIBRATED,
      "first" if self._valid.found.places.shape[2] == 1 else "all",
      self._valid.items.parts,
      base,
      self._columns,
      self._gates,
      tuple(map(tuple, weights.tolist())),
      words=self._valid.items.words,
    )

  def _contrasts(self) -> dict[str, dict[str, float]]:
    """Returns what columns lose from a list's first item to its tenth.

    In deviations, by words for the first item: means over the users who have
    both; a list that nobody has is left out. Of text all its columns count, as
    they go together. By words the first are the history's own: new ones count.
    """
    found, names = self._valid.found, self._columns.names
    exact, text = found.nearest[:, 0] == 0, found.places[:, :, 0]
    lists = [
      (
        features.TEXT,
        "an exact title rather than the tenth nearest item",
        text,
        exact,
      ),
      (
        features.TEXT,
        "the nearest item of a text that is no title rather than the tenth",
        text,
        ~exact,
      ),
    ]
    for n, model in enumerate(self._valid.items.models):
      places = found.cf_places[:, :, n]
      words = f"the first by {model} rather than its tenth"
      if model == features.WORDS:
        places = _without(places, self._valid.known.columns["in history"] > 0)
        by = fusion_words.named(model)
        words = f"the first new item by {by} rather than the tenth"
      lists.append((model, words, places, np.ones(len(exact), bool)))
    contrasts = {}
    for part, words, places, who in lists:
      first, tenth = places == 0, places == fusion_words.TENTH
      users = np.flatnonzero(who & first.any(axis=1) & tenth.any(axis=1))
      if users.size:
        one, other = (own[users].argmax(axis=1) for own in (first, tenth))
        lost = self._numbers[users, one] - self._numbers[users, other]
        contrasts[words] = {
          name: float(own.mean())
          for name, own in zip(names, lost.T, strict=True)
          if features.is_of(name, part)
        }
    return contrasts


def _taken(valid: Valid) -> tuple[np.ndarray, np.ndarray]:
  """Returns who took a candidate [N] bool, and each one's slot.

  Of a title that several rows share the row itself, else the first.
  """
  own = valid.judged.own
  same = own & (valid.found.items == valid.taken[:, None])
  slots = np.where(same.any(axis=1), same.argmax(axis=1), own.argmax(axis=1))
  users = np.asarray(own.any(axis=1))
  return users, slots[users]


def _without(places: np.ndarray, out: np.ndarray) -> np.ndarray:
  """Returns places [N, S] in lists that some slots [N, S] are taken out of."""
  places = np.where(out | (places >= candidates.CF), candidates.CF, places)
  order = places.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
  return np.where(places < candidates.CF, order, candidates.CF)
