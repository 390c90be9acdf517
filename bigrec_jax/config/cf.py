"""The section `cf` of the configuration."""

import dataclasses
from typing import Annotated

from bigrec_jax import errors
from bigrec_jax.config import checks

CF_MODELS = ("most_pop", "item_knn", "gru4rec", "caser", "sasrec", "dros")


@dataclasses.dataclass(frozen=True)
class CfConfig:
  """Collaborative-filtering baselines."""

  model: str
  num_train: Annotated[int, checks.Range(0, checks.MOST, also=-1)]
  family: str
  loss: str
  num_negatives: Annotated[int, checks.Range(1, 2**16)]
  negative_power: Annotated[float, checks.Range(0, 10)]
  dro: bool
  dro_alpha: Annotated[float, checks.Range(0, 1e6)]
  dro_beta: Annotated[float, checks.Range(1e-6, 1e6)]
  hidden_size: Annotated[int, checks.Range(1, 2**16)]
  num_layers: Annotated[int, checks.Range(1, 2**10)]
  num_heads: Annotated[int, checks.Range(1, 2**16)]
  dropout: Annotated[float, checks.FRACTION]
  learning_rate: Annotated[float, checks.RATE]
  weight_decay: Annotated[float, checks.Range(0, 1e3)]
  grid_learning_rate: Annotated[tuple[float, ...], checks.RATE]
  grid_weight_decay: Annotated[tuple[float, ...], checks.Range(0, 1e3)]
  batch_size: Annotated[int, checks.ROWS]
  num_epochs: Annotated[int, checks.SOME]
  patience: Annotated[int, checks.ANY]
  stop_cutoff: Annotated[int, checks.SOME]
  num_seeds: Annotated[int, checks.Range(1, 2**12)]
  save_every_epochs: Annotated[int, checks.ANY]
  mask_seen: bool
  neighbours: Annotated[int, checks.SOME]
  neighbour_decay: Annotated[float, checks.Range(0, 10)]
  max_dense_gib: Annotated[float, checks.Range(0, 1e9)]

  def __post_init__(self):
    for name in self.models:
      checks.choice("cf.model", name, (*CF_MODELS, "all"))
    checks.choice("cf.family", self.family, ("dros", "s3rec"))
    checks.choice(
      "cf.loss", self.loss, ("bce", "bpr", "sampled_softmax", "softmax")
    )
    if self.hidden_size % self.num_heads:
      raise errors.UserError(
        f"config.cf.num_heads: {self.num_heads} found, a divisor of"
        f" cf.hidden_size {self.hidden_size} expected"
      )

  @property
  def models(self) -> tuple[str, ...]:
    """The models to train, in the order given; `all` is each of them."""
    names = tuple(name.strip() for name in self.model.split(","))
    return CF_MODELS if "all" in names else names
