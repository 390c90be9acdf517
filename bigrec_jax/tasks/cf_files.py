"""CF scores that a task's evaluation shows beside its own rows."""

import pathlib
from typing import Any

from absl import logging

from bigrec_jax.cf import scores as cf_scores
from bigrec_jax.tasks import protocol
from bigrec_jax.workdir import fingerprints


def find(store: protocol.Store) -> dict[str, pathlib.Path]:
  """Returns the scores of valid and test; none where one of them lacks.

  Args:
    store: `ground.cf_scores` names files; else `ground.cf_model` does, by its
      first name, of what was trained in the workdir.
  """
  ground, found = store.config.ground, {}
  for split in protocol.SPLITS:
    given = ground.cf_scores.get(split)
    if given:
      found[split] = pathlib.Path(given)
    elif model := ground.injected_cf:
      path = store.paths.cf_scores(model, split)
      if cf_scores.exists(path):
        found[split] = path
  return found if len(found) == len(protocol.SPLITS) else {}


def tell_missing(store: protocol.Store) -> None:
  """Says so where there is no row of the CF model that was asked for."""
  model = store.config.ground.injected_cf
  if model and not find(store):
    logging.warning(
      "%s: no scores, so there is no row of %s (--mode=train_cf makes them)",
      store.paths.cf_scores(model, "test"),
      model,
    )


def made_from(store: protocol.Store) -> dict[str, Any]:
  """Returns what names the scores, by split."""
  return {
    split: fingerprints.of_folder(path.parent, f"{path.stem}*")
    for split, path in find(store).items()
  }
