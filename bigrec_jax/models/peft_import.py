"""Adapters in the directory format of Hugging Face PEFT, read strictly."""

import pathlib
import re
from typing import Any

import numpy as np

from bigrec_jax import errors
from bigrec_jax.config import LoraConfig
from bigrec_jax.models import layout, registry, tensor_files
from bigrec_jax.models.protocol import Architecture
from bigrec_jax.workdir import storage

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

# Keys of adapter_config.json that change the computation, and the values that
# mean "not used". Anything else is refused: it would be dropped in silence.
_UNSUPPORTED = {
  "use_dora": (False,),
  "use_rslora": (False,),
  "lora_bias": (False,),
  "fan_in_fan_out": (False,),
  "bias": ("none",),
  "modules_to_save": ([],),
  "rank_pattern": ({},),
  "alpha_pattern": ({},),
  "layers_to_transform": ([],),
  "layer_replication": ([],),
  "target_parameters": ([],),
  "trainable_token_indices": ([], {}),
  "exclude_modules": ([],),
  "use_qalora": (False,),
  "alora_invocation_tokens": ([],),
}
# Ways to draw A and B that leave the base's weights as they are.
_HARMLESS_INITS = (True, False, "gaussian", "eva", "orthogonal")


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
    UserError: it is no plain LoRA, is empty, or fits another base.
  """
  directory = pathlib.Path(directory)
  lora = read_lora_config(directory, arch)
  file = directory / WEIGHTS_FILE
  if not file.is_file() and (directory / "adapter_model.bin").is_file():
    raise errors.UserError(
      f"{directory / 'adapter_model.bin'}: a torch file found, {WEIGHTS_FILE}"
      " expected: save it again with a current version of peft"
    )
  tensors = tensor_files.read_file(file)
  if not tensors:
    raise errors.UserError(f"{file}: no tensors found, LoRA weights expected")
  used = set()

  def read(entry, layer):
    name = entry.hf_name.format(layer=layer)
    used.add(name)
    if name not in tensors:
      raise errors.UserError(
        f"{file}: {name}: missing, though {CONFIG_FILE} targets it and the"
        f" base has {arch.num_hidden_layers} layers"
      )
    shape = entry.shape[::-1]
    if tensors[name].shape != shape:
      raise errors.UserError(
        f"{file}: {name}: shape {list(tensors[name].shape)} found,"
        f" {list(shape)} expected: the adapter is of another base or rank"
      )
    return np.array(tensors[name].view().T, np.float32, order="C")

  def make(entry, layer):
    if layer is not None:
      return read(entry, layer)
    count = arch.num_hidden_layers
    return np.stack([read(entry, number) for number in range(count)])

  tree = layout.build_tree(
    registry.lora_entries(arch, lora),
    arch.num_hidden_layers,
    scan_layers,
    make,
  )
  if unknown := sorted(set(tensors) - used):
    raise errors.UserError(
      f"{file}: {unknown[0]}: unknown tensor, {CONFIG_FILE} and the base have"
      " no place for it"
    )
  return lora, tree


def read_lora_config(
  directory: str | pathlib.Path, arch: Architecture
) -> LoraConfig:
  """Reads adapter_config.json.

  Raises:
    UserError: the file is missing, or asks for what plain LoRA is not.
  """
  file = pathlib.Path(directory) / CONFIG_FILE
  values = storage.read_json(file)
  if values.get("peft_type") != "LORA":
    raise errors.UserError(
      f"{file}: peft_type: {values.get('peft_type')!r} found, 'LORA' expected"
    )
  for key, allowed in _UNSUPPORTED.items():
    value = values.get(key)
    if value is not None and value not in allowed:
      raise errors.UserError(
        f"{file}: {key}: {value!r} found, plain LoRA ({allowed[0]!r}) expected"
      )
  init = values.get("init_lora_weights", True)
  if init not in _HARMLESS_INITS:
    raise errors.UserError(
      f"{file}: init_lora_weights: {init!r} found, an initialisation that"
      " leaves the base as it is expected"
    )
  rank, alpha = values.get("r"), values.get("lora_alpha")
  for key, value in (("r", rank), ("lora_alpha", alpha)):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
      raise errors.UserError(
        f"{file}: {key}: {value!r} found, a number expected"
      )
  return LoraConfig(
    rank=int(rank),
    alpha=float(alpha),
    dropout=float(values.get("lora_dropout") or 0.0),
    target_modules=_targets(file, values.get("target_modules"), arch),
  )


def _targets(
  file: pathlib.Path, wanted: Any, config: Architecture
) -> tuple[str, ...]:
  """Resolves target_modules by PEFT's rules: a list of endings, or a regex."""
  names = {
    entry.path[-2]: [
      entry.hf_name.format(layer=layer).removesuffix(".weight")
      for layer in range(config.num_hidden_layers)
    ]
    for entry in registry.base_entries(config)
    if entry.kind == "kernel"
  }
  if wanted == "all-linear":
    return tuple(names)
  if isinstance(wanted, str):
    try:
      pattern = re.compile(wanted)
    except re.error as error:
      raise errors.UserError(
        f"{file}: target_modules: {wanted!r} is no regular expression: {error}"
      ) from None
    matched = {m: [bool(pattern.fullmatch(n)) for n in names[m]] for m in names}
  elif isinstance(wanted, list) and wanted:
    for ending in wanted:
      known = (n for own in names.values() for n in own)
      if not any(n == ending or n.endswith(f".{ending}") for n in known):
        raise errors.UserError(
          f"{file}: target_modules: {ending!r} found, some of"
          f" {', '.join(names)} expected"
        )
    matched = {
      m: [any(n == e or n.endswith(f".{e}") for e in wanted) for n in names[m]]
      for m in names
    }
  else:
    raise errors.UserError(
      f"{file}: target_modules: {wanted!r} found, a list or a regular"
      " expression expected"
    )
  for module, hits in matched.items():
    if any(hits) and not all(hits):
      raise errors.UserError(
        f"{file}: target_modules: {module} of some layers found, of all or"
        " none expected"
      )
  chosen = tuple(module for module, hits in matched.items() if all(hits))
  if not chosen:
    raise errors.UserError(
      f"{file}: target_modules: {wanted!r} matches nothing, some of"
      f" {', '.join(names)} expected"
    )
  return chosen
