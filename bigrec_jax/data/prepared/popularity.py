"""How often each item was taken: what popularity injection favours."""

import numpy as np

from bigrec_jax import errors
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.workdir import fields, storage


def counts(path: str, catalogue: Catalogue) -> np.ndarray:
  """Returns [I] counts: of a file, or of the train split.

  Args:
    path: `ground.popularity`, JSON, external item id -> count; "" = none.
    catalogue: whose items are counted.

  Raises:
    UserError: the file has no counts of these items.
  """
  if not path:
    return catalogue.popularity
  given = storage.read_json(path)
  if not isinstance(given, dict):
    raise errors.UserError(
      f"{path}: {type(given).__name__} found, an object of external item id ->"
      " count expected"
    )
  result = np.zeros(len(catalogue), np.float64)
  known = 0
  for row, external_id in enumerate(catalogue.external_ids):
    count = given.get(external_id, 0)
    known += external_id in given
    where = f"{path}: {external_id}"
    result[row] = fields.number(count, where)
  if not known:
    raise errors.UserError(
      f"{path}: none of its {len(given)} ids is in the catalogue, external"
      f" ids such as {catalogue.external_ids[0]!r} expected"
    )
  return result
