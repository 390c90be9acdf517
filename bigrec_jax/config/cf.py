"""The section `cf` of the configuration."""

import dataclasses

from bigrec_jax import errors
from bigrec_jax.config import checks

CF_MODELS = ("most_pop", "item_knn", "gru4rec", "caser", "sasrec", "dros")


@dataclasses.dataclass(frozen=True)
class CfConfig:
  """Collaborative-filtering baselines."""

  model: str
  num_train: int
  family: str
  loss: str
  num_negatives: int
  negative_power: float
  dro: bool
  dro_alpha: float
  dro_beta: float
  hidden_size: int
  num_layers: int
  num_heads: int
  dropout: float
  learning_rate: float
  weight_decay: float
  grid_learning_rate: tuple[float, ...]
  grid_weight_decay: tuple[float, ...]
  batch_size: int
  num_epochs: int
  patience: int
  stop_cutoff: int
  num_seeds: int
  save_every_epochs: int
  mask_seen: bool
  neighbours: int
  neighbour_decay: float
  max_dense_gib: float

  def __post_init__(self):
    for name in self.models:
      checks.choice("cf.model", name, (*CF_MODELS, "all"))
    checks.choice("cf.family", self.family, ("dros", "s3rec"))
    checks.choice(
      "cf.loss", self.loss, ("bce", "bpr", "sampled_softmax", "softmax")
    )
    for key in ("num_negatives", "hidden_size", "num_layers", "num_heads"):
      checks.at_least(f"cf.{key}", getattr(self, key), 1)
    for key in ("batch_size", "num_epochs", "stop_cutoff", "num_seeds"):
      checks.at_least(f"cf.{key}", getattr(self, key), 1)
    for key in ("patience", "save_every_epochs", "weight_decay", "dro_alpha"):
      checks.at_least(f"cf.{key}", getattr(self, key), 0)
    checks.at_least("cf.neighbours", self.neighbours, 1)
    if not 0 <= self.dropout < 1:
      raise errors.UserError(
        f"config.cf.dropout: {self.dropout} found, 0 <= dropout < 1 expected"
      )
    for rate in (self.learning_rate, *self.grid_learning_rate):
      checks.positive("cf.learning_rate", rate)
    if self.hidden_size % self.num_heads:
      raise errors.UserError(
        f"config.cf.num_heads: {self.num_heads} found, a divisor of"
        f" cf.hidden_size {self.hidden_size} expected"
      )
    if not self.dro_beta > 0:
      raise errors.UserError(
        f"config.cf.dro_beta: {self.dro_beta} found, a positive number expected"
      )

  @property
  def models(self) -> tuple[str, ...]:
    """The models to train, in the order given; `all` is each of them."""
    names = tuple(name.strip() for name in self.model.split(","))
    return CF_MODELS if "all" in names else names
