"""Readers of what a report shows, field by field.

A file that is not as its writer left it is one line that names the place; the
sections of the report find every field of the kind that they expect.
"""

import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from bigrec_jax import errors
from bigrec_jax.workdir import arrays, fields, storage

T = TypeVar("T")
Row = dict[str, Any]
_TEXTS = fields.sequence(fields.text)


def manifest(path: pathlib.Path) -> Row:
  """Reads data/manifest.json."""
  value = storage.read_object(path)
  file = fields.Fields(value, f"{path}:")
  file.check(fields.of_object, "counts")
  file.check(fields.mapping(_split), "splits")
  return value


def _split(value: Any, where: str) -> None:
  fields.Fields(value, where).check(fields.count, "num_examples")


def doctor(path: pathlib.Path) -> Row:
  """Reads data/doctor.json."""
  value = storage.read_object(path)
  file = fields.Fields(value, f"{path}:")
  file.get("format", fields.text)
  file.get("rules", fields.sequence(_rule))
  file.get("findings", fields.sequence(_finding))
  file.get("checks", fields.sequence(_check))
  file.get("notes", _TEXTS)
  return value


def _rule(value: Any, where: str) -> None:
  row = fields.Fields(value, where)
  for key in ("rule", "unit"):
    row.get(key, fields.text)
  for key in ("before", "removed", "after"):
    row.get(key, fields.whole)
  row.get("examples", _TEXTS)


def _finding(value: Any, where: str) -> None:
  row = fields.Fields(value, where)
  row.get("what", fields.text)
  row.get("count", fields.whole)
  row.get("examples", _TEXTS)


def _check(value: Any, where: str) -> None:
  row = fields.Fields(value, where)
  row.get("check", fields.text)
  row.get("holds", fields.flag)
  row.get("detail", fields.text)


def throughput(path: pathlib.Path) -> Row:
  """Reads metrics/throughput.json."""
  value = storage.read_object(path)
  fields.mapping(_speed)(value, f"{path}:")
  return value


def _speed(value: Any, where: str) -> None:
  row = fields.Fields(value, where)
  row.check(fields.text, "unit")
  row.check(fields.number, "count", "seconds", "per_second")


def curve(path: pathlib.Path) -> list[Row]:
  """Reads metrics/train.jsonl; a last line that a kill cut short is dropped."""
  return _lines(path, _point, may_be_cut=True)


def _point(value: Any, where: str) -> Row:
  row = fields.Fields(value, where)
  row.get("step", fields.count)
  row.check(fields.number, "loss", "eval_loss")
  return value


def catalogue(path: pathlib.Path) -> list[Row]:
  """Reads data/catalogue.jsonl."""
  return _lines(path, _item)


def _item(value: Any, where: str) -> Row:
  row = fields.Fields(value, where)
  row.get("title", fields.text)
  row.check(fields.count, "popularity")
  return value


def predictions(path: pathlib.Path) -> list[Row]:
  """Reads predictions/<split>.json."""
  return list(fields.sequence(_prediction)(storage.read_json(path), f"{path}:"))


def _prediction(value: Any, where: str) -> Row:
  row = fields.Fields(value, where)
  row.check(_TEXTS, "predict")
  row.check(fields.text, "input", "output")
  return value


def recommended(path: pathlib.Path) -> list[tuple[str, ...]]:
  """Reads the ids of recommendations.jsonl, a list a line."""
  return _lines(path, _listed)


def _listed(value: Any, where: str) -> tuple[str, ...]:
  row = fields.Fields(value, where)
  return row.get("recommendations", fields.sequence(_listed_id))


def _listed_id(value: Any, where: str) -> str:
  return fields.Fields(value, where).get("external_id", fields.text)


def examples(path: pathlib.Path) -> list[Row]:
  """Reads ranks/test_examples.json."""
  return list(fields.sequence(_example)(storage.read_json(path), f"{path}:"))


def _example(value: Any, where: str) -> Row:
  row = fields.Fields(value, where)
  row.check(fields.text, "target")
  row.check(_TEXTS, "history", "predict")
  row.check(fields.mapping(_TEXTS), "grounded")
  row.check(fields.mapping(_rank), "rank")
  return value


def _rank(value: Any, where: str) -> int | None:
  return None if value is None else fields.count(value, where)


def ranks(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads ranks/<split>.npz: [N] ranks by injection, and the targets' rows.

  Those at every gamma of the grid are for others to read.
  """
  found = {
    name: array
    for name, array in arrays.read_npz(path).items()
    if not name.endswith((":gammas", ":ranks"))
  }
  length = max((len(a) for a in found.values() if a.ndim == 1), default=0)
  for name, array in found.items():
    if array.dtype.kind not in "iu" or array.shape != (length,):
      raise errors.UserError(
        f"{path}: {name}: {array.dtype} {list(array.shape)} found, whole"
        f" numbers [{length}] expected"
      )
    if array.size and array.min() < 0:
      raise errors.UserError(
        f"{path}: {name}: {array.min()} found, at least 0 expected"
      )
  return found


def _lines(
  path: pathlib.Path,
  read: Callable[[Any, str], T],
  *,
  may_be_cut: bool = False,
) -> list[T]:
  """Returns what `read` makes of each line of a file of JSON lines."""
  lines = storage.read_lines(path, may_be_cut=may_be_cut)
  return [read(value, place) for place, value in lines]
