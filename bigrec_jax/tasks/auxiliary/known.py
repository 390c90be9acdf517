"""What is told of items behind names: of a file, or of prepared columns."""

import pathlib
from collections.abc import Sequence
from typing import Any

from bigrec_jax import errors
from bigrec_jax.config import AuxiliaryConfig
from bigrec_jax.data.formats import attributes as files, values
from bigrec_jax.data.prepared import attributes as prepared
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.workdir import given

_KEY = "config.task.auxiliary"


def read(
  config: AuxiliaryConfig, catalogue: Catalogue, path: pathlib.Path
) -> dict[str, str]:
  """Returns what is told of items, by external id; of many items nothing.

  Args:
    config: which file, and which columns; the file comes first.
    catalogue: its items.
    path: of what the items' file says (data/attributes.jsonl), maybe missing.

  Raises:
    UserError: the file can't be read or is of other items, or no item has a
      column.
  """
  told: dict[str, list[str]] = {key: [] for key in catalogue.external_ids}
  if config.attributes:
    for key, text in _of_file(config.attributes, catalogue).items():
      told[key].append(text)
  columns = [name for name in config.columns if name]
  if columns:
    own = prepared.Attributes(path).of(range(len(catalogue)))
    _check(columns, own, path)
    for parts, row in zip(told.values(), own, strict=True):
      parts += [text for name in columns if (text := _text(row.get(name)))]
  return {key: "; ".join(parts) for key, parts in told.items() if parts}


def _of_file(name: str, catalogue: Catalogue) -> dict[str, str]:
  path = given.file("task.auxiliary.attributes", name)
  known, own = files.read(path), set(catalogue.external_ids)
  if not own & known.keys():
    raise errors.UserError(
      f"{path}: none of the catalogue's ids found, such as"
      f" {catalogue.external_ids[0]!r} expected"
    )
  return {key: text for key, text in known.items() if key in own}


def _check(
  columns: Sequence[str], rows: Sequence[dict[str, Any]], path: pathlib.Path
) -> None:
  """Raises UserError for a column that no item has."""
  there = list(dict.fromkeys(name for row in rows for name in row))
  for name in columns:
    if name in there:
      continue
    expected = f"one of {values.listed(there)} expected"
    if not there:
      expected = (
        f"none expected: {path} has none; data.format=csv keeps the other"
        " columns of data.items there"
      )
    raise errors.UserError(f"{_KEY}.columns: {name!r} found, {expected}")


def _text(value: Any) -> str:
  """Returns a value of a column as it is read; "" for none."""
  parts = value if isinstance(value, list) else [value]
  if isinstance(value, str):
    parts = value.split(files.BETWEEN)
  texts = [" ".join(str(part).split()) for part in parts if part is not None]
  return ", ".join(text for text in texts if text)
