"""metrics/cf.json as rows: an object a CF model, in it one for each split."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from bigrec_jax.results import rows, table as table_lib
from bigrec_jax.workdir import fields, storage

_SPLITS = ("valid", "test")
_BY_CUTOFF = rows.by_cutoff(fields.number)


@dataclasses.dataclass(frozen=True)
class CfRow:
  """A CF model on one split: means over its seeds.

  Attributes:
    model: its name.
    split: valid or test.
    ndcg: by cutoff.
    hr: by cutoff.
    ci95: {"ndcg": {"1": [low, high], ...}, "hr": {...}}, over users and, where
      there are several, seeds; empty in files of before it.
    deviation: {"ndcg": {"1": ...}, "hr": {...}} over seeds; empty of one.
  """

  model: str
  split: str
  ndcg: rows.ByCutoff
  hr: rows.ByCutoff
  ci95: rows.Intervals
  deviation: Mapping[str, rows.ByCutoff]


def read(path: pathlib.Path) -> tuple[CfRow, ...]:
  """Returns the rows of metrics/cf.json, of this version or any before it.

  Raises:
    UserError: it is missing, damaged, of a later version, or a row isn't one.
  """
  file = fields.Fields(storage.read_json(path), f"{path}:")
  fields.check_schema(file)
  found = []
  for model in file:
    if model != "schema":
      entry = fields.Fields(
        file.get(model, fields.of_object), f"{path}: {model}"
      )
      for split in _SPLITS:
        if split in entry:
          found.append(entry.get(split, _reader(model, split)))
  return tuple(found)


def _reader(model: str, split: str):
  """Returns what reads one split of a model."""

  def read_row(value: Any, where: str) -> CfRow:
    row = fields.Fields(value, where)
    std = {
      name: own
      for name in ("ndcg", "hr")
      if (own := row.optional(f"{name}_std", _BY_CUTOFF, None)) is not None
    }
    return CfRow(
      model,
      split,
      row.get("ndcg", _BY_CUTOFF),
      row.get("hr", _BY_CUTOFF),
      row.optional("ci95", rows.INTERVALS, {}),
      std,
    )

  return read_row


def add(path: pathlib.Path, model: str, entry: dict[str, Any]) -> None:
  """Writes a model's object into the file; the others' stay.

  Args:
    path: of the file.
    model: its name.
    entry: with "valid" and "test", each {"ndcg", "hr", ...}, and whatever else
      is worth keeping of a training.
  """
  known = storage.read_json_if_whole(path)
  if not isinstance(known, dict):
    known = {}  # Others that were in it are made again when they are asked for.
  storage.write_json(path, {"schema": fields.SCHEMA} | known | {model: entry})


def table(
  known: Mapping[str, Any], cutoffs: Sequence[int], models: Sequence[str]
) -> str:
  """Returns the test results as a table, a model a row.

  Args:
    known: the entries of the file.
    cutoffs: the columns; a model that was evaluated at others has gaps.
    models: the rows.
  """
  places = [str(k) for k in cutoffs]
  headers = [
    "test",
    *(f"NDCG@{k}" for k in places),
    *(f"HR@{k}" for k in places),
    "epochs",
    "s/epoch",
  ]
  lines = []
  for model in models:
    entry = known[model]
    result = entry["test"]
    seconds = entry.get("seconds_per_epoch")
    lines.append(
      [
        model,
        *(result["ndcg"].get(k) for k in places),
        *(result["hr"].get(k) for k in places),
        entry.get("epochs"),
        None if seconds is None else f"{seconds:.2f}",
      ]
    )
  return table_lib.format_table(headers, lines)
