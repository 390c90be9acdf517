"""How surely lists hold the target: fitted on valid, tested on test."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrec_jax.config import recommend as recommend_config
from bigrec_jax.results import (
  chosen,
  confidence,
  ground_file,
  paired_tests,
)
from bigrec_jax.stages import predictions
from bigrec_jax.stages.session import Session, say
from bigrec_jax.workdir import parts as parts_lib

if TYPE_CHECKING:
  from bigrec_jax.rankers import evaluate

SPLITS = ("valid", "test")
_PAIRS = chosen.TWO_GAMMAS
# Ranks under two gammas are exact below this on valid.
_PAIRS_CUTOFF = 20
_ALONE = {
  "cf": paired_tests.BASELINE + "cf",
  "popularity": paired_tests.BASELINE + "most_pop",
}


def measure(
  session: Session,
  splits: "Mapping[str, evaluate.Split]",
  texts: Mapping[str, list[str]],
  items: np.ndarray,
  ranks: Mapping[str, Mapping[str, np.ndarray]],
  fitted: Mapping[str, Any],
  once: parts_lib.Once,
) -> dict[str, Any]:
  """Returns the confidence of each kind of list, by its name, as JSON.

  Args:
    session: configuration and workdir.
    splits: queries and CF scores.
    texts: what was written first, cleaned, by split.
    items: [I, D] embeddings of the catalogue.
    ranks: by split and name [N].
    fitted: what valid taught systems.
    once: knows what was measured before a kill.
  """
  signs = {
    s: _signs(session, splits[s], s, texts[s], items, once) for s in SPLITS
  }
  _tell_of_cold(signs)
  without = {s: _without_cf(own) for s, own in signs.items()}
  cutoffs = session.config.ground.cutoffs
  valid, test = ranks["valid"], ranks["test"]
  alone = {part: valid.get(name) for part, name in _ALONE.items()}
  found = {}
  for part, name in _ALONE.items():
    if name in valid:
      own = signs if part == "cf" else without
      fit = confidence.fit(own["valid"], valid[name], cutoffs)
      found[confidence.ALONE[part]] = _tested(fit, own["test"], test[name])
  for name in valid:
    if not _makes_lists(name, fitted):
      continue
    of_cf = _reads_cf(name, fitted)
    own, by = (signs, "cf") if of_cf else (without, "popularity")
    kept = [k for k in cutoffs if name != _PAIRS or k <= _PAIRS_CUTOFF]
    far = confidence.far_distance(own["valid"], valid[name], alone[by])
    fit = confidence.fit(own["valid"], valid[name], kept, far)
    found[name] = _tested(fit, own["test"], test[name])
  return found


def told(found: ground_file.GroundFile, name: str) -> list[str]:
  """Returns what is printed of the lists that valid likes best.

  Args:
    found: the evaluation.
    name: of their ranks.
  """
  own = found.confidence.get(name, {}).get("tested", {})
  if not own:
    return []
  k = "10" if "10" in own else max(own, key=int)
  says, is_so, error = (own[k][key] for key in ("says", "is", "error"))
  return [
    f"confidence of lists of {k} by {name}, fitted on valid: on test it says"
    f" {says:.3f} on average, {is_so:.3f} have the target; calibration error"
    f" {error:.3f}"
  ]


def _tested(
  fit: confidence.Confidence, signs: confidence.Signs, ranks: np.ndarray
) -> dict[str, Any]:
  tested = confidence.tested(fit, signs, ranks)
  return fit.to_json() | {"tested": tested}


def _makes_lists(name: str, fitted: Mapping[str, Any]) -> bool:
  if name in chosen.SYSTEMS:
    return name in fitted
  return name == _PAIRS or name in recommend_config.INJECTIONS


def _reads_cf(name: str, fitted: Mapping[str, Any]) -> bool:
  if name in chosen.SYSTEMS:
    own = fitted[name]
    return bool(chosen.models_of(own.get("parameters", own)))
  return "cf" in name


def _without_cf(signs: confidence.Signs) -> confidence.Signs:
  """Returns the signs that lists without CF have."""
  return signs._replace(
    place=np.full_like(signs.place, -1), cold=np.zeros_like(signs.cold)
  )


def _signs(
  session: Session,
  split: "evaluate.Split",
  name: str,
  texts: list[str],
  items: np.ndarray,
  once: parts_lib.Once,
) -> confidence.Signs:
  from bigrec_jax.rankers import signs as signs_lib
  from bigrec_jax.rankers.distance import streamed

  def make() -> parts_lib.Arrays:
    catalogue, ground = session.catalogue, session.config.ground
    groups = np.arange(len(items), dtype=np.int32)
    cf = split.cf_scores
    return signs_lib.of_users(
      streamed.streamed(items, groups, session.mesh),
      split.queries,
      np.array([catalogue.names(text) for text in texts]),
      predictions.first_scores(session, name),
      None if cf is None else lambda part: np.asarray(cf[part], np.float32),
      most_users=ground.batch_size,
      most_items=ground.block_items,
      name=name,
    )._asdict()

  return confidence.Signs(**once(f"signs {name}", make))


def _tell_of_cold(signs: Mapping[str, confidence.Signs]) -> None:
  """Says of how many users CF knows nothing."""
  cold = {split: int(own.cold.sum()) for split, own in signs.items()}
  if any(cold.values()):
    shown = ", ".join(
      f"{count:,} of {len(signs[split].cold):,} in {split}"
      for split, count in cold.items()
    )
    say(
      f"ground_eval: cold users, of whom CF knows nothing: {shown}; CF favours"
      " no item for them, the text (and popularity) decides"
    )
