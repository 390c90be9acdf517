"""What is told of items behind names: of a file, or of prepared columns."""

import pathlib

from bigrec_jax import errors
from bigrec_jax.config import AuxiliaryConfig
from bigrec_jax.data.formats import attributes as files
from bigrec_jax.data.prepared import attributes as prepared
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.workdir import given


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
  own = prepared.columns(
    path, len(catalogue), columns, "task.auxiliary.columns"
  )
  for parts, row in zip(told.values(), own, strict=True):
    parts += [", ".join(texts) for texts in row if texts]
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
