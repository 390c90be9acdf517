"""Base, merged model and adapter in Hugging Face's own directory formats."""

import pathlib
import shutil
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigrec_jax import errors
from bigrec_jax.config import LoraConfig
from bigrec_jax.devices import sharding
from bigrec_jax.models import (
  layout,
  peft_import,
  quantize,
  registry,
  tensor_files,
)
from bigrec_jax.models.protocol import Architecture
from bigrec_jax.workdir import storage

TOKENIZER_FILES = (
  "tokenizer.json",
  "tokenizer.model",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "vocab.txt",
  "spiece.model",
  "sentencepiece.bpe.model",
  "chat_template.jinja",
)


def save_base(
  directory: str | pathlib.Path,
  arch: Architecture,
  params: dict[str, Any],
  tokenizer_source_dir: str | pathlib.Path | None,
) -> None:
  """Writes config.json, model.safetensors and the tokenizer's files.

  Args:
    directory: replaced as a whole, once everything is written.
    arch: the shape.
    params: stacked or not; quantised kernels are written as bfloat16.
    tokenizer_source_dir: whose tokenizer files are copied; None = none.
  """
  _save(directory, arch, params, tokenizer_source_dir, None)


def save_merged(
  directory: str | pathlib.Path,
  arch: Architecture,
  params: dict[str, Any],
  lora_config: LoraConfig,
  lora_tree: dict[str, Any],
  tokenizer_source_dir: str | pathlib.Path | None,
) -> None:
  """Writes base and adapter as one model, W + A B alpha / rank.

  Merged one matrix at a time, so memory holds one layer's more than the base.
  Arguments as in `save_base`; both trees are stacked alike or not.
  """
  scale = np.float32(lora_config.alpha / lora_config.rank)

  def merge(entry, layer, weight):
    own = _find(lora_tree, entry.path[:-1], layer)
    if entry.kind != "kernel" or own is None:
      return weight
    a, b = (_pick(own[name], layer, lora_tree) for name in ("lora_a", "lora_b"))
    return weight.astype(np.float32) + (a @ b) * scale

  _save(directory, arch, params, tokenizer_source_dir, merge)


def save_adapter(
  directory: str | pathlib.Path,
  arch: Architecture,
  lora_config: LoraConfig,
  lora_tree: dict[str, Any],
  base_name: str,
  base_fingerprint: str = "",
  beside: Callable[[pathlib.Path], None] | None = None,
) -> None:
  """Writes adapter_config.json and adapter_model.safetensors as PEFT does.

  What was written is read back and compared before it replaces `directory`,
  so an empty or damaged adapter never takes the place of a good one.

  Args:
    directory: replaced as a whole.
    arch: of the base; its family names the weights.
    lora_config: rank, alpha, dropout and targets.
    lora_tree: stacked or not.
    base_name: path or name of the base, for PEFT's own loader.
    base_fingerprint: names what the base holds, for ours; "" = not known.
    beside: writes more files into the folder, before it replaces the former.

  Raises:
    UserError: a weight is NaN or infinite.
  """
  tensors = _peft_tensors(arch, lora_config, lora_tree)
  if not tensors:
    raise ValueError("an adapter without weights")
  for name, value in tensors.items():
    if not np.isfinite(value).all():
      raise errors.UserError(
        f"{directory}: {name}: NaN or infinity found, finite weights expected"
      )
  if jax.process_index():
    return
  alpha = lora_config.alpha
  config = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": base_name,
    "r": lora_config.rank,
    "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
    "lora_dropout": lora_config.dropout,
    "target_modules": list(lora_config.target_modules),
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "modules_to_save": None,
    "use_dora": False,
    "use_rslora": False,
  }
  with tensor_files.atomic_directory(pathlib.Path(directory)) as temporary:
    storage.write_json(temporary / peft_import.CONFIG_FILE, config)
    file = temporary / peft_import.WEIGHTS_FILE
    header = [(name, x.dtype, x.shape) for name, x in tensors.items()]
    about = {tensor_files.BASE: base_fingerprint} if base_fingerprint else {}
    tensor_files.write_file(file, header, tensors.__getitem__, about)
    written = tensor_files.read_file(file)
    for name, value in tensors.items():
      if not np.array_equal(written[name].view(), value):
        raise errors.UserError(
          f"{file}: {name}: read back otherwise than written; the disk or the"
          " file system is at fault"
        )
    if beside is not None:
      beside(temporary)


def _peft_tensors(
  arch: Architecture, lora_config: LoraConfig, lora_tree: dict[str, Any]
) -> dict[str, np.ndarray]:
  """Flattens the adapter to PEFT's names, [out, in] float32 each."""
  entries = registry.lora_entries(arch, lora_config)
  names = {entry.path: entry.hf_name for entry in entries}
  tensors = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(lora_tree):
    top, *own = (key.key for key in path)
    value = sharding.to_host(leaf).astype(np.float32)
    rows: Iterable[tuple[int, np.ndarray]]
    if top == "layers":
      rows = enumerate(value)
    else:
      rows = [(int(top.removeprefix("layers_")), value)]
    for layer, row in rows:
      name = names[tuple(own)].format(layer=layer)
      tensors[name] = np.ascontiguousarray(row.T)
  return dict(sorted(tensors.items()))


def _save(
  directory: str | pathlib.Path,
  config: Architecture,
  params: dict[str, Any],
  tokenizer_source_dir: str | pathlib.Path | None,
  change: Callable[[layout.Entry, int | None, np.ndarray], np.ndarray] | None,
) -> None:
  """Streams the weights of the table, changed on the way, to disk."""
  weights = {}
  for entry in registry.base_entries(config):
    for layer in range(config.num_hidden_layers) if entry.layered else (None,):
      weights[entry.hf_name.format(layer=layer)] = (entry, layer)
  embedding = params["embed_tokens"]["embedding"]
  dtype = np.dtype(embedding.dtype)

  def value(name):
    entry, layer = weights[name]
    leaf = _find(params, entry.path, layer)
    plain = _pick(leaf, layer, params)
    if change is not None:
      plain = change(entry, layer, plain)
    return (plain.T if entry.transpose else plain).astype(dtype)

  header = [
    (name, dtype, entry.shape[::-1] if entry.transpose else entry.shape)
    for name, (entry, _) in weights.items()
  ]
  if jax.process_index():
    for name in weights:  # Takes part in the gathering of every weight.
      value(name)
    return
  with tensor_files.atomic_directory(pathlib.Path(directory)) as temporary:
    storage.write_json(temporary / "config.json", config.to_hf(dtype.name))
    tensor_files.write_file(temporary / "model.safetensors", header, value)
    if tokenizer_source_dir is not None:
      _copy_tokenizer(pathlib.Path(tokenizer_source_dir), temporary)


def _copy_tokenizer(source: pathlib.Path, target: pathlib.Path) -> None:
  found = [name for name in TOKENIZER_FILES if (source / name).is_file()]
  if not found:
    raise errors.UserError(
      f"{source}: no tokenizer found, one of {', '.join(TOKENIZER_FILES[:2])}"
      " expected"
    )
  for name in found:
    shutil.copyfile(source / name, target / name)


def _find(tree: dict[str, Any], path: tuple[str, ...], layer: int | None):
  """Returns the node at `path` of the layer, stacked or not, or None."""
  if layer is not None:
    top = "layers" if "layers" in tree else f"layers_{layer}"
    path = (top, *path)
  for name in path:
    if name not in tree:
      return None
    tree = tree[name]
  return tree


def _pick(leaf: Any, layer: int | None, tree: dict[str, Any]) -> np.ndarray:
  """Returns one layer's weight on the host, dequantised."""
  if layer is not None and "layers" in tree:
    leaf = jax.tree.map(lambda x: x[layer], leaf)
  if quantize.is_quantized(leaf):
    leaf = leaf.dequantize(jnp.float32)
  return sharding.to_host(leaf)
