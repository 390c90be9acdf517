"""Adapters in the directory format of Hugging Face PEFT, read strictly.

Whatever an adapter does by layer (rank, scale, or nothing at all) becomes one
plain LoRA of equal effect: A and B of lower rank are filled up with zeros,
layers without a part have zeros only, and a smaller scale goes into B. Zeros
stay zeros in training, since either's gradient is a product with the other.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigrec_jax import errors
from bigrec_jax.config import LoraConfig
from bigrec_jax.models import layout, peft_config, registry, tensor_files
from bigrec_jax.models.protocol import Architecture
from bigrec_jax.models.tensor_files import StoredTensor

CONFIG_FILE = peft_config.FILE
WEIGHTS_FILE = "adapter_model.safetensors"


def load_adapter(
  directory: str | pathlib.Path,
  arch: Architecture,
  scan_layers: bool = True,
) -> tuple[LoraConfig, dict[str, Any]]:
  """Loads a PEFT LoRA adapter.

  Args:
    directory: with adapter_config.json and adapter_model.safetensors.
    arch: of the base that it must fit.
    scan_layers: stacked layers or one by one.

  Returns:
    Its settings, and its weights as numpy float32 (small; jit or device_put
    place them).

  Raises:
    UserError: it is no LoRA, is empty, has a NaN or an infinity, or fits
      another base.
  """
  directory = pathlib.Path(directory)
  config = peft_config.read(directory, arch)
  file = directory / WEIGHTS_FILE
  if not file.is_file() and (directory / "adapter_model.bin").is_file():
    raise errors.UserError(
      f"{directory / 'adapter_model.bin'}: a torch file found, {WEIGHTS_FILE}"
      " expected: save it again with a current version of peft"
    )
  tensors = tensor_files.read_file(file)
  if not tensors:
    raise errors.UserError(f"{file}: no tensors found, LoRA weights expected")
  entries = registry.lora_entries(arch, config.lora)
  count = arch.num_hidden_layers
  _check(file, entries, config, count, tensors)

  def make(entry, layer):
    if layer is not None:
      return _weight(entry, layer, config, tensors)
    numbers = range(count)
    return np.stack([_weight(entry, n, config, tensors) for n in numbers])

  return config.lora, layout.build_tree(entries, count, scan_layers, make)


def _check(
  file: pathlib.Path,
  entries: tuple[layout.Entry, ...],
  config: peft_config.PeftConfig,
  num_layers: int,
  tensors: Mapping[str, StoredTensor],
) -> None:
  """Compares the tensors with what the config and the base want, both ways."""
  expected = set()
  for entry in entries:
    for (module, layer), part in config.parts.items():
      if entry.path[-2] != module:
        continue
      name = entry.hf_name.format(layer=layer)
      expected.add(name)
      if name not in tensors:
        raise errors.UserError(
          f"{file}: {name}: missing, though {CONFIG_FILE} targets it and the"
          f" base has {num_layers} layers"
        )
      shape = _own_shape(entry, part)[::-1]
      if tensors[name].shape != shape:
        raise errors.UserError(
          f"{file}: {name}: shape {list(tensors[name].shape)} found,"
          f" {list(shape)} expected: the adapter is of another base or rank"
        )
      if not np.isfinite(tensors[name].view().astype(np.float32)).all():
        raise errors.UserError(
          f"{file}: {name}: NaN or infinity found, finite weights expected: the"
          " file is damaged, or training diverged"
        )
  if unknown := sorted(set(tensors) - expected):
    raise errors.UserError(
      f"{file}: {tensor_files.shown(unknown[0])}: unknown tensor, {CONFIG_FILE}"
      " and the base have no place for it"
    )


def _own_shape(entry: layout.Entry, part: peft_config.Part) -> tuple[int, int]:
  """Returns the shape of A [D, R] or B [R, F] with the part's own rank."""
  if entry.path[-1] == "lora_a":
    return entry.shape[0], part.rank
  return part.rank, entry.shape[1]


def _weight(
  entry: layout.Entry,
  layer: int,
  config: peft_config.PeftConfig,
  tensors: Mapping[str, StoredTensor],
) -> np.ndarray:
  """Returns A or B of a layer, filled up to the common rank."""
  part = config.parts.get((entry.path[-2], layer))
  if part is None:
    return np.zeros(entry.shape, np.float32)
  stored = tensors[entry.hf_name.format(layer=layer)].view().T
  value = np.array(stored, np.float32, order="C")
  if entry.path[-1] == "lora_b" and config.scale != part.scale:
    value = value * np.float32(part.scale / config.scale)
  missing = [
    (0, n - own) for n, own in zip(entry.shape, value.shape, strict=True)
  ]
  return np.pad(value, missing)
