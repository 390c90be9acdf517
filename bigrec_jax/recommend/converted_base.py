"""A quantised base, converted once and restored from Orbax after that.

Quantising costs more than all else that a start does with a base: of 108 M
parameters, nf4 takes 5.1 CPU seconds to make and 0.3 to restore, int8 1.3 and
0.35. A base that is not quantised is not kept a second time: its slices are
read through the memory map of the safetensors files, which is as fast as
Orbax (bfloat16: 0.8 and 0.7 s, float32: 1.0 and 1.4 s) and takes no disk.
"""

import pathlib
import shutil
from typing import TYPE_CHECKING, Any

from absl import logging

from bigrec_jax import config as config_lib, errors
from bigrec_jax.workdir import fingerprints, locks, processes

if TYPE_CHECKING:
  import jax

  from bigrec_jax import models

_VERSION = 1  # Of the layout and of the quantisation; another one is remade.


def load(
  directory: pathlib.Path,
  model: config_lib.ModelConfig,
  mesh: "jax.sharding.Mesh",
  store: pathlib.Path,
  fingerprint: str,
  *,
  keep: bool,
) -> "tuple[models.Architecture, Any]":
  """Returns the base's shape and its weights on the mesh, quantised or not.

  Args:
    directory: in Hugging Face layout.
    model: section `model`.
    mesh: any, whatever mesh the base was converted on.
    store: holds the converted base of the last fingerprint.
    fingerprint: names the weights, their dtype and their quantisation.
    keep: write what had to be converted; else only read.

  Raises:
    UserError: the Hugging Face directory cannot be used.
  """
  from bigrec_jax import models
  from bigrec_jax.models import hf_import

  if model.quantization == "none":
    return hf_import.load_base(directory, model, mesh)
  own = store / _name(directory, model, fingerprint)
  if processes.agree(own.exists):
    arch = models.read_config(directory)
    abstract = hf_import.abstract_base(
      arch, model.dtype, mesh, model.scan_layers, model.quantization
    )
    params = _restore(own, abstract)
    if params is not None:
      logging.info("restored the converted base from %s", own)
      return arch, params
  arch, params = hf_import.load_base(directory, model, mesh)
  if keep:
    with locks.first_come(store) as may_save:
      if may_save:
        _save(own, params)
  return arch, params


def _name(
  directory: pathlib.Path, model: config_lib.ModelConfig, fingerprint: str
) -> str:
  # Of a large file the fingerprint has only the ends, so the times count too.
  files = sorted(directory.glob("*.safetensors"))
  return fingerprints.of_value(
    {
      "version": _VERSION,
      "base": fingerprint,
      "scan_layers": model.scan_layers,
      "times": {path.name: path.stat().st_mtime_ns for path in files},
    }
  )


def _restore(own: pathlib.Path, abstract: Any) -> Any | None:
  """Returns the weights, or None where there are none that can be read."""
  from bigrec_jax.workdir import checkpoints

  try:
    found = checkpoints.read_latest(own, abstract)
  except errors.UserError as error:
    logging.warning("%s; converting the base again", error)
    return None
  return None if found is None else found.state


def _save(own: pathlib.Path, params: Any) -> None:
  """Keeps the weights; removes those of other settings."""
  from bigrec_jax.workdir import checkpoints

  processes.on_first(lambda: _clear(own.parent))
  try:
    with checkpoints.Checkpoints(own, keep=1) as saved:
      saved.save(0, params, {}, {})
  except OSError as error:
    # The run has its base; only the next start will be slower.
    logging.warning("%s: the converted base is not kept: %s", own, error)
    return
  logging.info("kept the converted base in %s", own)


def _clear(store: pathlib.Path) -> None:
  # Beside quantised bases there may be `gguf`, which this one is made from.
  for old in store.glob("[0-9a-f]*"):
    shutil.rmtree(old, ignore_errors=True)
