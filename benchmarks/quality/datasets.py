"""The three data sets, and which of their rows are used.

Data stay where they are (--shared=DIR, ../shared/data by default). Of each
split 2,000 rows count: the first 2,000 of the published sample of 5,000, that
is `RandomState(42).permutation(rows)[:5000]`. Where a split has fewer than
5,000 rows the published sample is the whole split in its order; then too the
2,000 are the first of that permutation, since the first in order would be the
oldest.
"""

import dataclasses
import pathlib
from typing import Any

import ml_collections

from bigrec_jax import config as config_lib
from configs import real

USERS = 2000
HELD_OUT = ("valid", "test")


@dataclasses.dataclass(frozen=True)
class DataSet:
  """Where a data set is and how its prompts read.

  Attributes:
    title: for tables.
    files: keys of section `data` that are paths below the folder of data.
    noun: what an item is, in the plural.
    verb: what users do with it.
    plain: further keys of section `data`.
  """

  title: str
  files: dict[str, str]
  noun: str
  verb: str
  plain: dict[str, Any]

  @property
  def prompt(self) -> dict[str, str]:
    """Keys of section `prompt`, worded as BIGRec words them."""
    one = self.noun.removesuffix("s")
    return {
      "prompt.instruction": (
        f"Given a list of {self.noun} the user has {self.verb} before, please"
        f" recommend a new {one} that the user likes to the user."
      ),
      "prompt.history": (
        f"The user has {self.verb} the following {self.noun} before:"
      ),
    }


DATA = {
  "amazon-toys": DataSet(
    "Amazon Toys",
    {
      "train": "amazon-toys/derived_train_full.csv.gz",
      "valid": "amazon-toys/valid.csv.gz",
      "test": "amazon-toys/test.csv.gz",
      "catalogue": "amazon-toys/id2name4Rec.json.gz",
    },
    "toys",
    "played",
    {"format": "bigrec"},
  ),
  "amazon-books": DataSet(
    "Amazon Books",
    {
      "train": "amazon-books/train.csv.gz",
      "test": "amazon-books/test.csv.gz",
      "catalogue": "amazon-books/id2name4Rec.json.gz",
    },
    "books",
    "read",
    {"format": "bigrec"},  # Without data.valid the last ninth of train is it.
  ),
  "ml-latest-small": DataSet(
    "MovieLens latest-small",
    {"raw_dir": "ml-latest-small"},
    "movies",
    "watched",
    {"format": "movielens"},
  ),
}


def flags(data: str, folder: pathlib.Path, users: int) -> dict[str, Any]:
  """Returns the keys that make configs/real.py one of a data set.

  Args:
    data: of `DATA`.
    folder: of the data.
    users: rows of valid and of test.
  """
  own = DATA[data]
  found: dict[str, Any] = {
    f"data.{key}": str(folder / path) for key, path in own.files.items()
  }
  found |= {f"data.{key}": value for key, value in own.plain.items()}
  found |= {f"data.num_{split}": users for split in HELD_OUT}
  return found | own.prompt


def configuration(changes: dict[str, Any]) -> config_lib.Config:
  """Returns configs/real.py with changes, by dotted key.

  Raises:
    UserError: a key is unknown or a value out of its range.
  """
  config: ml_collections.ConfigDict = real.get_config()
  config.update_from_flattened_dict(changes)
  return config_lib.from_config_dict(config)
