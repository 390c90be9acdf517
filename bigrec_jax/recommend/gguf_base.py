"""A base given as a GGUF file, converted once into the workdir."""

import pathlib
import shutil

from absl import logging

from bigrec_jax import errors
from bigrec_jax.workdir import fingerprints, locks, processes

_VERSION = 1  # Of the conversion; another one is made again.


def directory(
  path: pathlib.Path, dtype: str, store: pathlib.Path
) -> pathlib.Path:
  """Returns the Hugging Face directory of a GGUF file; converts it if needed.

  Of several processes the first converts, so all must call it together.

  Args:
    path: of the GGUF file.
    dtype: `float32` or `bfloat16`, of the weights.
    store: of converted files; holds the last one.

  Raises:
    UserError: there is no such file, or it cannot be used.
  """
  own = place(path, dtype, store)

  def convert() -> None:
    from bigrec_jax.models.gguf import conversion

    with locks.turn(store):
      if not own.is_dir():  # Another process may just have made it.
        shutil.rmtree(store, ignore_errors=True)  # Of other settings.
        conversion.convert(path, own, dtype)

  if not processes.agree(own.is_dir):
    processes.on_first(convert)
    logging.info("converted %s into %s", path, own)
  return own


def place(path: pathlib.Path, dtype: str, store: pathlib.Path) -> pathlib.Path:
  """Returns where the directory of a GGUF file is, or would be.

  Raises:
    UserError: there is no such file.
  """
  if not path.is_file():
    raise errors.UserError(
      f"config.model.path: {path}: not found, a GGUF file expected"
    )
  return store / _name(path, dtype)


def _name(path: pathlib.Path, dtype: str) -> str:
  # Of a large file the fingerprint has only the ends, so its time counts too.
  return fingerprints.of_value(
    {
      "version": _VERSION,
      "file": fingerprints.of_file_ends(path),
      "time": path.stat().st_mtime_ns,
      "dtype": dtype,
    }
  )
