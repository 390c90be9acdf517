"""The digests of a checkpoint's files, written once it is whole.

Orbax doesn't notice a flipped byte in an array.
"""

import pathlib

from absl import logging

from bigrec_jax import errors
from bigrec_jax.workdir import fingerprints, storage

_SEAL = "digests.json"


def seal(folder: pathlib.Path) -> None:
  """Keeps the digests of a checkpoint, unless it has them."""
  if folder.is_dir() and not (folder / _SEAL).exists():
    storage.write_json(folder / _SEAL, _digests(folder))


def check(folder: pathlib.Path) -> None:
  """Raises OSError if the files aren't those that were sealed.

  A checkpoint without a seal was whole when a kill came before the sealing;
  Orbax's own checks have to do.
  """
  if not (folder / _SEAL).exists():
    logging.warning("%s has no digests: contents are not checked", folder)
    return
  sealed, found = storage.read_json(folder / _SEAL), _digests(folder)
  if not isinstance(sealed, dict):
    raise OSError(f"{_SEAL} is damaged")
  for name in sorted(sealed.keys() | found.keys()):
    if sealed.get(name) != found.get(name):
      state = "changed" if name in found else "missing"
      raise OSError(f"{name} is {state if name in sealed else 'unexpected'}")


def has_whole(directory: pathlib.Path) -> bool:
  """Returns whether a folder of checkpoints has one that is as it was sealed.

  One without a seal counts, too.
  """
  for folder in sorted(directory.glob("[0-9]*"), reverse=True):
    try:
      check(folder)
      return True
    except (OSError, errors.UserError):
      continue
  return False


def _digests(folder: pathlib.Path) -> dict[str, str]:
  return {
    path.relative_to(folder).as_posix(): fingerprints.of_file(path)
    for path in sorted(folder.rglob("*"))
    if path.is_file() and path.name != _SEAL
  }
