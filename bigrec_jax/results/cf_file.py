"""metrics/cf.json as rows: an object a CF model, in it one for each split."""

import dataclasses
import pathlib
from typing import Any

from bigrec_jax.results import fields, rows
from bigrec_jax.workdir import storage

_SPLITS = ("valid", "test")
_NUMBERS = fields.mapping(fields.number)


@dataclasses.dataclass(frozen=True)
class CfRow:
  """A CF model on one split: means over its seeds.

  Attributes:
    model: its name.
    split: valid or test.
    ndcg: by cutoff.
    hr: by cutoff.
  """

  model: str
  split: str
  ndcg: rows.ByCutoff
  hr: rows.ByCutoff


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
    return CfRow(
      model, split, row.get("ndcg", _NUMBERS), row.get("hr", _NUMBERS)
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
  known = storage.read_json(path) if path.exists() else {}
  storage.write_json(path, {"schema": fields.SCHEMA} | known | {model: entry})
