"""Sections `data` and `prompt`."""

import dataclasses
from typing import Annotated

from bigrec_jax.config import checks

_SEED = checks.Range(0, 2**63 - 1)  # Of numpy's generators.
_ROWS = checks.Range(1, checks.MOST, also=-1)  # -1 = all.


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
  """Size and seed of the made-up world of format `synthetic`."""

  num_users: Annotated[int, checks.Range(1, 10**7)]
  num_items: Annotated[int, checks.Range(1, 10**7)]
  seed: Annotated[int, _SEED]


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
  catalogue_add: str
  interactions: str
  items: str
  columns: ColumnsConfig
  encoding: str
  windows: str
  max_history: Annotated[int, checks.Range(1, 2**16)]
  num_train: Annotated[int, _ROWS]
  num_valid: Annotated[int, _ROWS]
  num_test: Annotated[int, _ROWS]
  sample_seed: Annotated[int, _SEED]
  export_json: bool
  synthetic: SyntheticConfig

  def __post_init__(self):
    checks.choice(
      "data.format",
      self.format,
      ("synthetic", "movielens", "amazon", "bigrec", "sequences", "csv"),
    )
    checks.choice(
      "data.windows", self.windows, ("auto", "full", "tail", "every")
    )
    checks.choice(
      "data.encoding",
      self.encoding,
      ("auto", "utf-8", "utf-16", "cp1252", "iso-8859-1"),
    )


@dataclasses.dataclass(frozen=True)
class PromptConfig:
  """The words around the titles (bigrec_jax/data/text/prompts.py)."""

  style: str
  instruction: str
  history: str

  def __post_init__(self):
    checks.choice(
      "prompt.style",
      self.style,
      ("consistent", "bigrec", "tallrec", "chat", "d3", "sentence"),
    )
