"""Which base an adapter was trained on, as far as it says so.

Shapes tell bases of different sizes apart, not two of the same: an adapter on
another base of equal shapes runs, and writes nonsense. Adapters that are
written here name their base in the metadata of their weights, which PEFT
ignores; those of before have a record in the workdir that they lie in.
"""

import pathlib
from collections.abc import Iterator

from bigrec_jax import errors
from bigrec_jax.recommend import loaded as loaded_lib
from bigrec_jax.workdir import paths as paths_lib, records


def check(loaded: loaded_lib.Loaded, directory: pathlib.Path) -> str:
  """Refuses an adapter that is known to be of another base.

  Args:
    loaded: configuration and workdir, whose base is there.
    directory: a PEFT directory.

  Returns:
    What the user should know of it, "" if nothing.

  Raises:
    UserError: it was trained on a base of other weights.
  """
  known = dict(_bases_of(directory))
  expected = loaded.base_fingerprint
  for source, found in known.items():
    if found not in loaded.base_fingerprints.values():
      raise errors.UserError(
        f"config.model.adapter: {directory}: trained on base {found}, one of"
        f" base {expected} ({loaded.base_dir}) expected ({source} says so)"
      )
  if not known:
    return f"{directory}: nothing in it says on which base it was trained"
  if expected in known.values():
    return ""
  return (
    f"{directory} was trained on this base in another model.dtype or"
    " model.quantization"
  )


def _bases_of(directory: pathlib.Path) -> Iterator[tuple[pathlib.Path, str]]:
  """Yields what says on which base an adapter was trained, and what it says."""
  # Not at the top: to find that all is current takes no network's code.
  from bigrec_jax.models import peft_import, tensor_files

  file = directory / peft_import.WEIGHTS_FILE
  if base := tensor_files.read_metadata(file).get(tensor_files.BASE):
    yield file, base
  if directory.name == "adapter":
    record = paths_lib.Paths(directory.parent).record("adapter")
    base = (records.read(record) or {}).get("base")
    if isinstance(base, str):
      yield record, base
