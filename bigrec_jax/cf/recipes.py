"""From the configuration to what a named model is trained with."""

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrec_jax.config import CfConfig
from bigrec_jax.workdir import fingerprints

# What is compiled is imported where it is made: to see that scores are
# current, only the settings are compared.
if TYPE_CHECKING:
  from jax.sharding import Mesh

  from bigrec_jax.cf import steps

# Models that are trained by gradients; the others are counted.
TRAINED = ("gru4rec", "caser", "sasrec", "dros")
# Rows of a table come in multiples of this, so that it splits over 1, 2, 4, ...
# 128 devices without being another table: a checkpoint fits any such mesh.
_ROWS_UNIT = 128
# Settings that change how long training goes on, not what an epoch does.
SCHEDULE_KEYS = ("num_epochs", "patience", "stop_cutoff", "save_every_epochs")
# Settings that training never sees.
_OTHER_KEYS = ("model", "mask_seen", "max_dense_gib")
_KNN_KEYS = ("neighbours", "neighbour_decay")


def recipe(
  model: str, config: CfConfig, num_items: int, max_length: int, mesh: "Mesh"
) -> "steps.Recipe":
  """Returns what is compiled for a model of `TRAINED`.

  Args:
    model: its name.
    config: section `cf`.
    num_items: I.
    max_length: L, the longest history.
    mesh: whose shards the item tables divide over.
  """
  from bigrec_jax.cf import losses, steps
  from bigrec_jax.cf.spec import NetworkSpec

  network = NetworkSpec(
    network="sasrec" if model == "dros" else model,
    family=config.family,
    num_items=num_items,
    rows=table_rows(num_items, mesh),
    hidden_size=config.hidden_size,
    num_layers=config.num_layers,
    num_heads=config.num_heads,
    max_length=max_length,
    dropout=config.dropout,
  )
  loss = losses.LossSpec(
    name=config.loss,
    num_negatives=config.num_negatives,
    dro=config.dro or model == "dros",
    dro_beta=config.dro_beta,
  )
  return steps.Recipe(network, loss, config.batch_size, config.negative_power)


def table_rows(num_items: int, mesh: "Mesh | None") -> int:
  """Returns the rows of an item table, one more than items at least.

  Args:
    num_items: I.
    mesh: whose shards they divide over; None = what most meshes take.
  """
  from bigrec_jax.cf import networks

  shards = networks.table_shards(mesh) if mesh else 1
  unit = math.lcm(_ROWS_UNIT, shards)
  return -(-(num_items + 1) // unit) * unit


def runs(config: CfConfig, seed: int) -> "list[steps.Run]":
  """Returns every seed of every grid point, seeds next to each other."""
  from bigrec_jax.cf import steps

  rates = config.grid_learning_rate or (config.learning_rate,)
  decays = config.grid_weight_decay or (config.weight_decay,)
  return [
    steps.Run(seed + k, rate, decay, config.dro_alpha)
    for rate, decay in itertools.product(rates, decays)
    for k in range(config.num_seeds)
  ]


def best_point(ndcg: list[float], num_seeds: int) -> list[int]:
  """Returns the runs of the grid point with the best mean valid NDCG.

  Args:
    ndcg: of each run, in the order of `runs`.
    num_seeds: seeds of a point.
  """
  means = np.asarray(ndcg).reshape(-1, num_seeds).mean(axis=1)
  first = int(means.argmax()) * num_seeds
  return list(range(first, first + num_seeds))


def training_name(
  made_from: Mapping[str, Any], num_items: int, mesh: "Mesh"
) -> str:
  """Names a training by its inputs, whatever its schedule.

  Tables of another size, which few meshes need, are another training.

  Args:
    made_from: of the model's scores, as its record has it.
    num_items: I.
    mesh: whose shards the item tables divide over.
  """
  options = {
    k: v
    for k, v in made_from["cf"].items()
    if k not in SCHEDULE_KEYS or k == "stop_cutoff"
  }
  named = {**made_from, "cf": options, "cutoffs": None}
  rows = table_rows(num_items, mesh)
  if rows != table_rows(num_items, None):
    named["rows"] = rows
  return fingerprints.of_value(named)


def relevant(model: str, options: dict) -> dict:
  """Returns the settings of section `cf` that a model depends on.

  Args:
    model: its name.
    options: the section as a dict.
  """
  if model == "most_pop":
    return {}
  if model == "item_knn":
    return {k: options[k] for k in _KNN_KEYS}
  left_out = (*_OTHER_KEYS, *_KNN_KEYS)
  return {k: v for k, v in options.items() if k not in left_out}
