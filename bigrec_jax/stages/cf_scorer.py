"""CF scores of histories that are in no split."""

from collections.abc import Callable

import numpy as np

from bigrec_jax.cf import recipes, rows
from bigrec_jax.stages import train_cf
from bigrec_jax.stages.session import Session

# [n, H] int32 histories, padded at the right with -1, to [n, I] float32.
Scorer = Callable[[np.ndarray], np.ndarray]

_USERS = 256  # Whose states one program computes.


def load(session: Session, model: str) -> Scorer:
  """Returns the scores of a model, whose stage is current.

  A history counts by its newest `data.max_history` items, as in training; one
  without any has equal scores everywhere, but for most_pop's.

  Args:
    session: configuration and workdir.
    model: its name.

  """
  if model == "most_pop":
    counts = train_cf.popularity_counts(session).astype(np.float32)
    return lambda history: np.tile(counts, (len(history), 1))
  most = session.config.data.max_history
  score = (
    train_cf.item_neighbours(session).scores
    if model == "item_knn"
    else _network(session, model)
  )
  return lambda history: score(rows.newest(history, most))


def _network(session: Session, model: str) -> Scorer:
  from bigrec_jax.cf import fitting, networks, states as cf_states, trainer
  from bigrec_jax.devices import sharding

  config, num_items = session.config.cf, len(session.catalogue)
  recipe = recipes.recipe(
    model, config, num_items, session.config.data.max_history, session.mesh
  )
  abstract = trainer.abstract_state(
    recipe, len(recipes.runs(config, session.config.seed)), session.mesh
  )
  directory = train_cf.checkpoint_dir(session, model)
  params = fitting.best_params(directory, abstract, config.num_seeds)
  if params is None:
    # Deleted, or of a mesh that needs tables of another size.
    session.walk.make_again(
      train_cf.stage(model), f"{directory}, which holds no checkpoint"
    )
    params = fitting.best_params(directory, abstract, config.num_seeds)
  kernel, bias = (
    sharding.to_host(x)[:num_items]
    for x in networks.head(recipe.network, params)
  )

  def score(history: np.ndarray) -> np.ndarray:
    states = cf_states.states(
      recipe.network, params, history, session.mesh, _USERS
    )
    scores = states @ kernel.T + bias
    scores[rows.lengths(history) == 0] = 0.0
    return scores

  return score
