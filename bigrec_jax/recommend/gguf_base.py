"""A base given as a GGUF file, converted once into the workdir."""

import pathlib
import shutil
from typing import Any

from absl import logging

from bigrec_jax import errors
from bigrec_jax.workdir import fingerprints, paths, processes, storage

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

    shutil.rmtree(store, ignore_errors=True)  # Of other settings; leftovers.
    conversion.convert(path, own, dtype)

  if not processes.agree(own.is_dir):
    processes.on_first(convert)
    logging.info("%s", describe(origin(own)))
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


def origin(directory: pathlib.Path) -> dict[str, Any] | None:
  """Returns where the weights of a base come from, None if it doesn't say."""
  path = directory / paths.ORIGIN_FILE
  return storage.read_json(path) if path.is_file() else None


def describe(origin: dict[str, Any]) -> str:
  """Returns the line that says that weights are a dequantised copy."""
  kinds = ", ".join(f"{n} {k}" for k, n in origin["quantisation"].items())
  about = origin["general"]
  return (
    f"{origin['file']}: {about.get('name', 'a model without a name')}"
    f" (licence: {about.get('license', 'not given')}), tensors {kinds},"
    f" dequantised to {origin['dequantised_to']}"
  )


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
