"""Sections `data` and `prompt`."""

import dataclasses

from bigrec_jax import errors
from bigrec_jax.config import checks


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
  """Size and seed of the made-up world of format `synthetic`."""

  num_users: int
  num_items: int
  seed: int


@dataclasses.dataclass(frozen=True)
class ColumnsConfig:
  """Names of the columns of format `csv`; "" = the usual ones."""

  user: str
  item: str
  time: str
  rating: str
  title: str
  author: str


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Raw files, their format, and which rows are used."""

  format: str
  raw_dir: str
  train: str
  valid: str
  test: str
  catalogue: str
  interactions: str
  items: str
  columns: ColumnsConfig
  encoding: str
  max_history: int
  num_train: int
  num_valid: int
  num_test: int
  sample_seed: int
  export_json: bool
  synthetic: SyntheticConfig

  def __post_init__(self):
    checks.choice(
      "data.format",
      self.format,
      ("synthetic", "movielens", "amazon", "bigrec", "sequences", "csv"),
    )
    checks.choice(
      "data.encoding", self.encoding, ("auto", "utf-8", "iso-8859-1")
    )
    checks.at_least("data.max_history", self.max_history, 1)
    for key in ("num_train", "num_valid", "num_test"):
      value = getattr(self, key)
      if value != -1 and value < 1:
        raise errors.UserError(
          f"config.data.{key}: {value} found, -1 (all) or at least 1 expected"
        )


@dataclasses.dataclass(frozen=True)
class PromptConfig:
  """The words around the titles (bigrec_jax/data/text/prompts.py)."""

  style: str
  instruction: str
  history: str

  def __post_init__(self):
    checks.choice(
      "prompt.style", self.style, ("consistent", "bigrec", "tallrec", "chat")
    )
