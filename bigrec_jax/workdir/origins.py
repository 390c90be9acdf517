"""What a model directory was made from, where it was made from another format.

Results on a dequantised copy are not those of the model's own weights, so the
copy says what it is, and whoever shows results can say it too.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from bigrec_jax.workdir import fields, storage

FILE = "origin.json"


def read(directory: pathlib.Path) -> dict[str, Any] | None:
  """Returns where the weights of a base come from, None if it doesn't say."""
  path = directory / FILE
  return read_file(path) if path.is_file() else None


def read_file(path: pathlib.Path) -> dict[str, Any]:
  """Reads origin.json.

  Raises:
    UserError: it is damaged, or a field is missing or of another kind.
  """
  return checked(storage.read_object(path), f"{path}:")


def checked(value: Any, where: str) -> dict[str, Any]:
  """Returns an origin as it is, if it is one.

  Args:
    value: of a file.
    where: the file, or the key in it, for messages.

  Raises:
    UserError: a field is missing or of another kind.
  """
  file = fields.Fields(value, where)
  for key in ("file", "dequantised_to"):
    file.get(key, fields.text)
  file.get("quantisation", fields.mapping(fields.whole))
  file.get("general", fields.of_object)
  return dict(value)


def describe(origin: Mapping[str, Any]) -> str:
  """Returns the line that says that weights are a dequantised copy."""
  kinds = ", ".join(f"{n} {k}" for k, n in origin["quantisation"].items())
  about = origin["general"]
  return (
    f"{origin['file']}: {about.get('name', 'a model without a name')}"
    f" (licence: {about.get('license', 'not given')}), tensors {kinds},"
    f" dequantised to {origin['dequantised_to']}"
  )
