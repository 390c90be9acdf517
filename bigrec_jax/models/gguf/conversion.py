"""A GGUF file made into a Hugging Face directory, once.

Everything after reads that directory, so a base out of a GGUF file is named,
sharded, quantised, trained and exported as any other. What it is, a
dequantised copy, stays with it in origin.json.
"""

import importlib.metadata
import pathlib
from collections import Counter
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from bigrec_jax import errors
from bigrec_jax.data.text import gguf_tokenizer
from bigrec_jax.models import tensor_files
from bigrec_jax.models.gguf import reading, shape
from bigrec_jax.workdir import fingerprints, origins, storage

_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(bfloat16)}


def read_config(path: pathlib.Path) -> dict[str, Any]:
  """Returns the values of config.json of the model in a GGUF file."""
  return shape.config_values(reading.open_file(path))


def convert(path: pathlib.Path, directory: pathlib.Path, dtype: str) -> None:
  """Writes the model and the tokenizer of a GGUF file as Hugging Face's.

  One tensor is in memory at a time, dequantised a few rows after the other.

  Args:
    path: of the GGUF file.
    directory: made as a whole, once everything is written.
    dtype: `float32` or `bfloat16`, of the weights. Dequantised values are
      float32; a base that is used in bfloat16 would be rounded when loaded,
      to the same values.

  Raises:
    UserError: the file is damaged, or says anything that isn't supported; the
      line names the key or tensor.
  """
  file = reading.open_file(path)
  config = shape.config_values(file)
  entries = {entry.hf_name: entry for entry in shape.entries(file, config)}

  def value(name: str) -> np.ndarray:
    entry = entries[name]
    tensor = file.tensors[entry.name]
    try:
      if len(entry.shape) == 1 and entry.heads:  # A bias has a row of values.
        return tensor.values(_DTYPES[dtype])[entry.row_order()]
      return tensor.values(_DTYPES[dtype], entry.row_order())
    except reading.NotFiniteError as error:
      raise errors.UserError(f"{path}: {error}") from None

  header = [(n, _DTYPES[dtype], entry.shape) for n, entry in entries.items()]
  with tensor_files.atomic_directory(directory) as temporary:
    # The tokenizer first: what is refused is refused before the long part.
    gguf_tokenizer.write(temporary, file.metadata, str(path))
    storage.write_json(
      temporary / "config.json", config | {"torch_dtype": dtype}
    )
    ends = {k: v for k, v in config.items() if k.endswith("_token_id")}
    storage.write_json(temporary / "generation_config.json", ends)
    tensor_files.write_file(temporary / "model.safetensors", header, value)
    storage.write_json(temporary / origins.FILE, _origin(file, dtype))


def _origin(file: reading.GgufFile, dtype: str) -> dict[str, Any]:
  """Returns what a report must be able to say about the weights."""
  kinds = Counter(tensor.kind for tensor in file.tensors.values())
  about = ("name", "organization", "license", "quantized_by", "url")
  return {
    "format": "gguf",
    "file": file.path.name,
    "bytes": file.path.stat().st_size,
    "fingerprint": fingerprints.of_file(file.path),
    "quantisation": dict(kinds.most_common()),
    "dequantised_to": dtype,
    "general": {
      key: file.metadata[f"general.{key}"]
      for key in about
      if f"general.{key}" in file.metadata
    },
    "dequantised_by": f"gguf {importlib.metadata.version('gguf')}",
  }
