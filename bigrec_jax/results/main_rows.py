"""Which rows of an evaluation the report looks at closely, and their ranks."""

import numpy as np

from bigrec_jax import errors
from bigrec_jax.results import chosen, ground_file, paired_tests, run_data

_ALONE = ("bigrec", "cf", "most_pop")


def label(name: str) -> str:
  """Returns a row of tests, by its name there, as people call it."""
  kind, _, injected = name.partition("+")
  if kind != paired_tests.BIGREC:
    return run_data.label(name)
  injection, _, protocol = injected.partition(":")
  if not injection:
    return run_data.INJECTIONS["none"]
  if protocol == "two_gammas":
    return run_data.INJECTIONS.get(f"{injection}:{protocol}", name)
  named = run_data.INJECTIONS.get(injection, injection)
  return named if protocol == "single_gamma" else f"{named}, gamma by K"


def on_valid(ground: ground_file.GroundFile) -> dict[str, float]:
  """Returns the NDCG on valid that rows of test are chosen by, by their names.

  Of an injection its single gamma's, or its two gammas'.
  """
  k, values = ground.chosen_by, dict[str, float]()
  try:
    candidates = list(chosen.candidates(ground))
  except errors.UserError:
    candidates = []
  pairs = {
    row.injection: row.gamma_of_parts
    for row in ground.rows_of(split="test", protocol="two_gammas")
  }
  for one in candidates:
    if one.injection != "none":
      # A pair that valid chose, or one gamma for all.
      two = dict(pairs.get(one.injection, {})) == dict(one.gamma)
      protocol = "two_gammas" if two else "single_gamma"
      values[f"bigrec+{one.injection}:{protocol}"] = one.ndcg
  listed = paired_tests.ranked(ground, {})
  for name, other in paired_tests.ranked(ground, {}, "valid").items():
    by_k = name.endswith(":bigrec")  # Which valid itself chose for each K.
    if k in other.row.ndcg and not by_k:
      values.setdefault(name, other.row.ndcg[k])
  return {n: v for n, v in values.items() if n in listed}


def best_combined(ground: ground_file.GroundFile) -> str | None:
  """Returns the row that valid likes best of those that add to BIGRec's text.

  By the NDCG that injections are chosen by; the first of equals. None where
  nothing is added, or valid's figures aren't there.
  """
  listed = paired_tests.ranked(ground, {})
  known = {
    name: value
    for name, value in on_valid(ground).items()
    if paired_tests.BIGREC in listed[name].parts
  }
  return max(known, key=known.__getitem__, default=None)


def closely(data: run_data.RunData) -> dict[str, np.ndarray]:
  """Returns ranks [N] on test by name: the parts alone, what combines them.

  These are BIGRec's own text, CF scores and most popular items, each system
  beside the published rows, and what valid likes best of all that combine.
  """
  ground = data.ground
  if ground is None:
    return {}
  listed = paired_tests.ranked(ground, data.ranks)
  best = best_combined(ground)
  names = [*_ALONE, *(row.name for row in ground.systems)]
  names += [best] if best else []
  k = 10  # Rows with a gamma a cutoff are not among them.
  found = {}
  for name in dict.fromkeys(names):
    ranks = listed[name].ranks("ndcg", k) if name in listed else None
    if ranks is not None:
      found[name] = ranks
  return found
