"""CF models of the same samples, scoring the same targets.

How the published rows were trained is not in the repository. Here each model
of bigrec_jax.cf predicts the target from the history, by the settings of
section `cf`, on those of the very train samples whose target is liked; its
score for a target is the model's score of that item, and the epoch with the
best AUC on valid is kept, with the patience of that section.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from bigrec_jax import config as config_lib, errors, progress
from bigrec_jax.cf import recipes, rows as rows_lib
from bigrec_jax.data.prepared.examples import Examples
from bigrec_jax.results import metrics
from bigrec_jax.tasks.yes_no.samples import Samples

if TYPE_CHECKING:
  from jax.sharding import Mesh

  from bigrec_jax.cf import networks

# Users whose states are computed side by side.
_BLOCK = 512


def names(config: config_lib.YesNoConfig) -> tuple[str, ...]:
  """Returns the models of the configuration."""
  return tuple(name for name in config.cf_models if name)


def liked(samples: Samples) -> Examples:
  """Returns the samples with a liked target, as next-item examples."""
  kept = samples.take(np.flatnonzero(samples.label))
  return Examples(
    kept.split, kept.rows, kept.history, kept.target, kept.user, kept.rows
  )


def scores(
  model: str,
  used: dict[str, Samples],
  config: config_lib.Config,
  num_items: int,
  mesh: "Mesh",
) -> dict[str, list[np.ndarray]]:
  """Trains a model; returns the targets' scores on valid and test.

  Args:
    model: of `recipes.TRAINED`.
    used: train, valid and test.
    config: sections cf and data, and the seed.
    num_items: of the catalogue.
    mesh: where it trains.

  Returns:
    One [N] array a seed, by split.

  Raises:
    UserError: no train sample has a liked target.
  """
  from bigrec_jax.cf import fitting, networks, states, trainer as cf_trainer

  train = liked(used["train"])
  if not len(train):
    raise errors.UserError(
      f"config.data.num_train: {len(used['train'])} samples, none with a liked"
      " target found, at least one expected: CF models learn from those"
    )
  length = used["train"].history.shape[1]
  recipe = recipes.recipe(model, config.cf, num_items, length, mesh)
  spec = recipe.network
  trainer = cf_trainer.CfTrainer(
    recipe,
    # Of each sample only the target is learnt, by every kind of network: a
    # history is there to be known, liked or not.
    rows_lib.windows(train),
    rows_lib.target_counts(train, num_items),
    recipes.runs(config.cf, config.seed),
    mesh,
  )
  encoders = {
    split: states.Encoder(spec, used[split].history, mesh, _BLOCK)
    for split in ("valid", "test")
  }

  def score(params: "networks.Params", split: str) -> np.ndarray:
    samples = used[split]
    factors = states.factors(
      encoders[split](params),
      networks.head(spec, params),
      len(samples),
      num_items,
    )
    chosen = factors.items[samples.target]  # [N, D]
    return np.einsum("nd,nd->n", factors.states, chosen)

  def judge(params: "networks.Params") -> float:
    return metrics.roc_auc(used["valid"].label, score(params, "valid"))

  fitted = fitting.fit(
    trainer,
    judge,
    fitting.Schedule(config.cf.num_epochs, config.cf.patience, 0),
    None,
    progress.NullProgress(),
  )
  kept = recipes.best_point(fitted.books["best_ndcg"], config.cf.num_seeds)
  params = [fitting.of_run(fitted.params, run) for run in kept]
  return {split: [score(one, split) for one in params] for split in encoders}


def made_from(config: config_lib.Config) -> dict[str, Any]:
  """Returns the settings that the rows depend on."""
  options = config.to_dict()["cf"]
  return {
    model: recipes.relevant(model, options)
    for model in names(config.task.yes_no)
  }
