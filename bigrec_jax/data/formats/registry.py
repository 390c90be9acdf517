"""All raw formats behind one function: what `prepare` writes down.

Formats with a log (movielens, amazon, sequences, csv, synthetic) give
Interactions, of which windows are cut and split here; format `bigrec` gives
ready rows.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from bigrec_jax import errors
from bigrec_jax.config import DataConfig
from bigrec_jax.data.formats import (
  amazon,
  bigrec_json,
  csv_files,
  interactions,
  movielens,
  sequences,
  synthetic,
  synthetic_ratings,
)
from bigrec_jax.data.prepared import doctor as doctor_lib, splits
from bigrec_jax.data.text import prompts

_LOGS = {
  "movielens": movielens,
  "amazon": amazon,
  "sequences": sequences,
  "csv": csv_files,
}
# The rules of the published notebooks; every target with a history where
# there is none to follow. `data.windows` takes another.
_RULES = {
  "movielens": "full",
  "amazon": "tail",
  "synthetic": "every",
  "csv": "every",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Content:
  """What a format gives, ready to be written.

  Attributes:
    titles: title by external id, in the order of the catalogue.
    windows: the examples by split.
    popularity: [I] int64, interactions of each item in the train part.
    overrides: (instruction, input) by split and row.
    instructions: (instruction, history lead), most frequent first.
    counts: figures for the manifest.
    users: external id by user number, and their items in the order of time
      (a timeline); None where the format has no users.
    attributes: what else is known of an item, as JSON, by external id.
  """

  titles: Mapping[str, str]
  windows: Mapping[str, splits.Windows]
  popularity: np.ndarray
  overrides: Mapping[str, Mapping[int, tuple[str, str]]]
  instructions: Sequence[tuple[str, str]]
  counts: Mapping[str, int]
  users: tuple[Sequence[str], splits.Timeline] | None = None
  attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)


def files(data: DataConfig) -> dict[str, pathlib.Path]:
  """Returns the raw files of a configuration by role.

  Raises:
    UserError: a file is missing.
  """
  if data.format == "synthetic":
    return {}
  if data.format == "bigrec":
    return bigrec_json.files(data)
  return _LOGS[data.format].files(data)


def read(
  data: DataConfig, prompt: prompts.Prompt, doctor: doctor_lib.Doctor
) -> Content:
  """Reads the raw files and splits them.

  Args:
    data: the section of the configuration.
    prompt: what the rows of format `bigrec` are compared with.
    doctor: told what was found and removed.

  Raises:
    UserError: a file is missing or malformed, or a split would be empty.
  """
  if data.format == "bigrec":
    rows = bigrec_json.read(data, prompt, doctor)
    wanted = [s for s in splits.SPLITS if s != "train" or data.train]
    _check({split: rows.windows[split] for split in wanted})
    return _from_rows(rows, doctor)
  log = read_log(data, doctor)
  doctor_lib.examine_users(doctor, log.user, log.item, data.max_history)
  line = splits.timeline(log)
  if data.format == "sequences":
    windows = splits.leave_one_out(line, data.max_history)
    _check(windows)
    known = splits.in_train_by_position(line)
    doctor.note("leave-one-out: last item = test, the one before = valid")
  else:
    rule = data.windows if data.windows != "auto" else _RULES[data.format]
    windows = splits.chronological(line, rule, data.max_history)
    _tell_of_short_users(doctor, line, rule, data.max_history)
    _check(windows)
    known = splits.in_train(line, windows)
    doctor.note(
      f"targets: {splits.RULES[rule]}; H = {data.max_history}; split 8:1:1 by"
      " target time"
    )
  return Content(
    titles=log.titles,
    windows=windows,
    popularity=np.bincount(line.item[known], minlength=len(log.titles)),
    overrides={},
    instructions=[(prompt.instruction, prompt.history_lead)],
    counts={
      "users": len(np.unique(log.user)),
      "interactions": len(log),
      "train_interactions": int(known.sum()),
    },
    users=None if log.users is None else (log.users, line),
    attributes=log.attributes,
  )


def _tell_of_short_users(
  doctor: doctor_lib.Doctor, line: splits.Timeline, rule: str, most: int
) -> None:
  """Tells how many users give no example, and what would keep them."""
  lengths = line.length[line.index == 0]
  fewest, keep = {
    "full": (
      most + 1,
      "--config.data.windows=every (every item with one before it is a target)",
    ),
    "every": (
      2,
      "--config.data.windows=tail (a user's only item, after an empty history)",
    ),
    "tail": (1, ""),
  }[rule]
  doctor.removed(
    f"with fewer than {fewest} items: they give no example",
    "users",
    len(lengths),
    int((lengths >= fewest).sum()),
    keep=keep,
  )


def read_log(
  data: DataConfig, doctor: doctor_lib.Doctor
) -> interactions.Interactions:
  """Returns the log of a format that has one: all but `bigrec`.

  Raises:
    UserError: a file is missing or malformed.
  """
  if data.format == "synthetic":
    return _synthetic_log(data)
  return _LOGS[data.format].read(data, doctor)


def _synthetic_log(data: DataConfig) -> interactions.Interactions:
  world = synthetic.build(data.synthetic)
  user, item, timestamp = world.interactions
  titles = dict(zip(world.external_ids, world.titles, strict=True))
  return interactions.Interactions(
    user,
    item,
    timestamp,
    titles,
    synthetic_ratings.of_world(world, data.synthetic.seed),
    [str(number) for number in range(int(user.max()) + 1)],
  )


def _from_rows(rows: bigrec_json.Rows, doctor: doctor_lib.Doctor) -> Content:
  counts, how = rows.train_popularity()
  doctor.note(f"popularity is {how}")
  return Content(
    titles=rows.titles,
    windows=rows.windows,
    popularity=counts,
    overrides=rows.overrides,
    instructions=rows.instructions,
    counts={"train_interactions": int(counts.sum())},
  )


def _check(windows: Mapping[str, splits.Windows]) -> None:
  counts = {split: len(part) for split, part in windows.items()}
  if not all(counts.values()):
    shown = ", ".join(f"{split} {count}" for split, count in counts.items())
    raise errors.UserError(
      f"config.data: examples found: {shown}; at least one in each split"
      " expected (are histories shorter than data.max_history?)"
    )
