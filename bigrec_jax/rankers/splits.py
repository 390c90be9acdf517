"""What is ranked on a split, and whether it fits the catalogue."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from absl import logging

from bigrec_jax import errors
from bigrec_jax.config import GroundConfig
from bigrec_jax.results import clusters
from bigrec_jax.results.chosen import parts_of


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """What is ranked on one split.

  Attributes:
    queries: [N, D] float32, embeddings of the predictions.
    targets: [N] catalogue rows.
    cf_scores: [N, I] float32, a memory map will do; None = no CF.
    cf_name: where the scores come from, for messages.
    users: whose rows these are, where somebody has several.
  """

  queries: np.ndarray
  targets: np.ndarray
  cf_scores: np.ndarray | None
  cf_name: str
  users: clusters.Clusters | None = None


def check(
  splits: Mapping[str, Split],
  item_embeddings: np.ndarray,
  groups: np.ndarray,
  popularity: np.ndarray,
) -> None:
  """Raises UserError where sizes don't fit together."""
  items, width = item_embeddings.shape
  if len(groups) != items or len(popularity) != items:
    raise errors.UserError(
      f"catalogue: {len(groups)} items with {len(popularity)} counts found,"
      f" {items} (the item embeddings' rows) expected"
    )
  for name, split in splits.items():
    count = len(split.targets)
    if not count:
      raise errors.UserError(f"{name}: no examples, at least one expected")
    if split.queries.shape != (count, width):
      raise errors.UserError(
        f"{name} queries: {list(split.queries.shape)} found,"
        f" {[count, width]} expected"
      )
    if split.targets.min() < 0 or split.targets.max() >= items:
      row = int(
        np.flatnonzero((split.targets < 0) | (split.targets >= items))[0]
      )
      raise errors.UserError(
        f"{name}: the target of row {row} is no row of the catalogue"
        f" ({split.targets[row]} of {items})"
      )
    scores = split.cf_scores
    if scores is not None and scores.shape != (count, items):
      raise errors.UserError(
        f"{split.cf_name}: shape {list(scores.shape)} found, {[count, items]}"
        " (examples, items) expected"
      )


def injections(config: GroundConfig, splits: Mapping[str, Split]) -> list[str]:
  """Returns the injections that can be run."""
  found = [name for name in config.injections if name != "none"]
  without = [n for n, s in splits.items() if s.cf_scores is None]
  if without and any("cf" in parts_of(name) for name in found):
    logging.warning(
      "no CF scores for %s: injections of CF are left out (config.ground."
      "cf_scores or config.ground.cf_model gives them)",
      " and ".join(without),
    )
    found = [name for name in found if "cf" not in parts_of(name)]
  if found and "valid" not in splits:
    raise errors.UserError(
      f"config.ground.injections: {', '.join(found)} found, but gamma is chosen"
      " on valid and there are no valid predictions; expected them, or none"
    )
  return found
