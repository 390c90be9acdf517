"""CF scores of histories that are in no split, by a model that is trained."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrec_jax import config as config_lib, errors
from bigrec_jax.cf import recipes, rows
from bigrec_jax.data.prepared import examples as examples_lib
from bigrec_jax.recommend import loaded as loaded_lib
from bigrec_jax.workdir import fields, records, seals

if TYPE_CHECKING:
  from bigrec_jax.cf import item_knn, networks, steps

# [n, H] int32 histories, padded at the right with -1, to [n, I] float32.
Scorer = Callable[[np.ndarray], np.ndarray]

_USERS = 256  # Whose states one program computes; another one does few.


def load(loaded: loaded_lib.Loaded, model: str) -> Scorer:
  """Returns the scores of a model; nothing is trained.

  A history counts by its newest `data.max_history` items, as in training; one
  without any has equal scores everywhere, but for most_pop's.

  Args:
    loaded: configuration and workdir.
    model: its name.

  Raises:
    UserError: it isn't trained, or on another catalogue.
  """
  made_from = _made_from(loaded, model)
  if model not in recipes.TRAINED:
    _check_rows(loaded, model, made_from)
  if model == "most_pop":
    counts = popularity_counts(loaded).astype(np.float32)
    return lambda history: np.tile(counts, (len(history), 1))
  most = made_from["max_history"]
  score = (
    item_neighbours(loaded, _config(loaded.config.cf, made_from["cf"])).scores
    if model == "item_knn"
    else _network(loaded, model, made_from)
  )
  return lambda history: score(rows.newest(history, most))


def has_weights(loaded: loaded_lib.Loaded, model: str) -> bool:
  """Returns whether a trained model has what `load` reads.

  Its scores of valid and test may be all that is left of it.
  """
  if model not in recipes.TRAINED:
    return True
  directory = checkpoint_dir(loaded, model, _made_from(loaded, model))
  return seals.has_whole(directory)


def _made_from(loaded: loaded_lib.Loaded, model: str) -> dict[str, Any]:
  """Returns what the model's record says that it was trained from."""
  record = loaded.paths.record(f"cf_{model}")
  made_from = records.read(record)
  if made_from is None:
    raise errors.UserError(
      f"{loaded.paths.root}: CF model {model} is not trained here;"
      f" --mode=train_cf --config.cf.model={model} trains it"
    )
  options = fields.Fields(made_from, f"{record}:")
  if options.get("max_history", fields.count) < 1:
    raise errors.UserError(f"{record}: max_history below 1 found")
  options.get("seed", fields.whole)
  options.get("cf", fields.of_object)
  if made_from.get("catalogue") != loaded.catalogue.fingerprint:
    raise errors.UserError(
      f"{record}: catalogue {made_from.get('catalogue')} found,"
      f" {loaded.catalogue.fingerprint} expected: {model} was trained on other"
      f" items; --mode=train_cf --config.cf.model={model} trains it again"
    )
  return made_from


def _check_rows(
  loaded: loaded_lib.Loaded, model: str, made_from: Mapping[str, Any]
) -> None:
  """Raises UserError where what is counted anew was counted in other rows."""
  before = made_from.get("examples")
  before = before.get("train") if isinstance(before, Mapping) else None
  if before != (now := train_examples(loaded).fingerprint):
    raise errors.UserError(
      f"{loaded.paths.record(f'cf_{model}')}: train rows {before} found, {now}"
      f" expected; --mode=train_cf --config.cf.model={model} counts them again"
    )


def item_vectors(loaded: loaded_lib.Loaded, model: str) -> np.ndarray:
  """Returns the item embeddings that a network reads, [I, E] float32.

  Args:
    loaded: configuration and workdir.
    model: of `recipes.TRAINED`.

  Raises:
    UserError: as `load` does.
  """
  from bigrec_jax.devices import sharding

  _, params = _parameters(loaded, model, _made_from(loaded, model))
  table = sharding.to_host(params["network"]["items"])
  return np.asarray(table[: len(loaded.catalogue)], np.float32)


def _parameters(
  loaded: loaded_lib.Loaded, model: str, made_from: dict[str, Any]
) -> "tuple[steps.Recipe, networks.Params]":
  """Returns what a network is, and its weights of the best epoch."""
  from bigrec_jax.cf import fitting, trainer

  config = _config(loaded.config.cf, made_from["cf"])
  num_items, mesh = len(loaded.catalogue), loaded.mesh
  recipe = recipes.recipe(
    model, config, num_items, made_from["max_history"], mesh
  )
  abstract = trainer.abstract_state(
    recipe, len(recipes.runs(config, made_from["seed"])), mesh
  )
  directory = checkpoint_dir(loaded, model, made_from)
  again = f"--mode=train_cf --config.cf.model={model}"
  try:
    params = fitting.best_params(directory, abstract, config.num_seeds)
  except errors.UserError as error:
    raise errors.UserError(f"{error}; {again} trains it again") from None
  if params is None:
    # Deleted, or of a mesh that needs tables of another size.
    folder = loaded.paths.cf_scores(model, "valid").parent
    raise errors.UserError(
      f"{directory}: no checkpoint found; {again} trains it again (on a mesh"
      f" that needs tables of another size, delete {folder} before)"
    )
  return recipe, params


def _network(
  loaded: loaded_lib.Loaded, model: str, made_from: dict[str, Any]
) -> Scorer:
  from bigrec_jax.cf import networks, states as cf_states
  from bigrec_jax.devices import sharding

  num_items, mesh = len(loaded.catalogue), loaded.mesh
  recipe, params = _parameters(loaded, model, made_from)
  kernel, bias = (
    sharding.to_host(x)[:num_items]
    for x in networks.head(recipe.network, params)
  )
  few = sharding.batch_size_unit(mesh)

  def score(history: np.ndarray) -> np.ndarray:
    users = few if len(history) <= few else _USERS
    states = cf_states.states(recipe.network, params, history, mesh, users)
    scores = states @ kernel.T + bias
    scores[rows.lengths(history) == 0] = 0.0
    return scores

  return score


def _config(
  config: config_lib.CfConfig, options: dict[str, Any]
) -> config_lib.CfConfig:
  """Returns the section with the settings that the model was trained with."""
  known = {field.name for field in dataclasses.fields(config)}
  changes: dict[str, Any] = {
    key: fields.like(getattr(config, key), value, f"its record: cf.{key}")
    for key, value in options.items()
    if key in known
  }
  return dataclasses.replace(config, **changes)


def checkpoint_dir(
  loaded: loaded_lib.Loaded, model: str, made_from: Mapping[str, Any]
) -> pathlib.Path:
  """Returns the folder of exactly this training, whatever its schedule.

  Tables of another size, which few meshes need, are another training.

  Args:
    loaded: configuration and workdir.
    model: its name.
    made_from: what its scores are made from.
  """
  name = recipes.training_name(made_from, len(loaded.catalogue), loaded.mesh)
  folder = loaded.paths.cf_scores(model, "valid").parent
  return folder / "checkpoints" / name


def train_examples(loaded: loaded_lib.Loaded) -> examples_lib.Examples:
  """Returns CF's train rows, by default those that the LLM is tuned on."""
  count = _num_train(loaded)
  if count == loaded.config.data.num_train:
    return loaded.examples("train")
  return examples_lib.load_examples(
    loaded.paths, "train", count, loaded.config.seed
  )


def item_neighbours(
  loaded: loaded_lib.Loaded, options: config_lib.CfConfig
) -> "item_knn.ItemKnn":
  """Returns ItemKNN of the train rows, with these settings."""
  from bigrec_jax.cf import item_knn

  return item_knn.fit(
    rows.interactions(train_examples(loaded)),
    len(loaded.catalogue),
    options.neighbours,
    options.neighbour_decay,
  )


def popularity_counts(loaded: loaded_lib.Loaded) -> np.ndarray:
  """Returns counts of the train part, or of the few-shot sample's rows."""
  if _num_train(loaded) == -1:
    return loaded.catalogue.popularity
  pairs = rows.interactions(train_examples(loaded))
  return np.bincount(pairs[:, 1], minlength=len(loaded.catalogue))


def _num_train(loaded: loaded_lib.Loaded) -> int:
  """Returns how many train rows a model sees; 0 = the LLM's own."""
  return loaded.config.cf.num_train or loaded.config.data.num_train
